// Package docs has the documents that programs print.
package docs

import _ "embed" // of the documents

// Repair is repair.md: how a store is repaired by hand.
//
//go:embed repair.md
var Repair string
