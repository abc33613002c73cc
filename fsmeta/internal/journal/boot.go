package journal

import (
	"os"
	"strings"
	"sync"
)

// bootID identifies this boot of the machine; "" where it can't be told, as anywhere but on Linux.
var bootID = sync.OnceValue(func() string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "" // AtWork relies on the lock alone
	}
	return strings.TrimSpace(string(id))
})
