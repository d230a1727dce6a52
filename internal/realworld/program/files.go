package program

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

// This file answers: what does a program need before it starts? It must be there, and have files and ports of its own.

// Find says which of these programs are not installed, and how they are.
func Find(names ...string) error {
	var missing []string
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("%s: not installed; as root, on Debian and its kin: bash internal/realworld/install.sh", strings.Join(missing, ", "))
	}
	return nil
}

// lastPort is the last port that this process gave away.
var lastPort atomic.Int64

// Port is one that nobody else in this process was given, for a network namespace of its own. Ports of outgoing connections begin
// above.
func Port() int { return int(20000 + lastPort.Add(1)) }

// Dir is a directory that every user may look into: many programs give up being root.
func Dir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// File writes a file that every user may read, and returns its path.
func File(t testing.TB, dir, name, text string) string {
	t.Helper()
	file := filepath.Join(dir, name)
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// Run waits for a command that ends soon, and fails the test with what it said when it does not end well.
func Run(t testing.TB, cmd *exec.Cmd) {
	t.Helper()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, out)
	}
}
