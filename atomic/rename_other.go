//go:build !linux

package atomic

import "errors"

func renameNew(from, to string) error { return renameNewInSteps(from, to) }

func exchange(a, b string) error { return exchangeInSteps(a, b) }

func tryExchange(a, b string) error { return linkError("exchange", a, b, errors.ErrUnsupported) }
