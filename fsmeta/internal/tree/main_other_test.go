//go:build !linux

package tree

const canExchange = false
