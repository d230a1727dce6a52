package program

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"sync"
	"testing"
)

// This file answers: how does a test talk with a program over its standard input and output?

// Peer is a program that ends by itself when its input ends.
type Peer struct {
	In  io.WriteCloser
	Out io.Reader // for who does not call Lines

	t       testing.TB
	cmd     *exec.Cmd
	readers sync.WaitGroup
}

// Talk starts a program. Its input ends with the test; the test fails when the program then does not end well. When the test has
// failed already, the program may hang, and is killed.
func Talk(t testing.TB, name string, cmd *exec.Cmd) *Peer {
	t.Helper()
	mortal(cmd)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	p := &Peer{In: in, Out: out, t: t, cmd: cmd}
	t.Cleanup(func() {
		if t.Failed() {
			cmd.Process.Kill()
		}
		in.Close()
		p.readers.Wait() // Wait closes what they read
		if err := cmd.Wait(); err != nil && !t.Failed() {
			t.Errorf("%s: %v", name, err)
		}
	})
	return p
}

// Lines has heard called with each line that the program writes, from a goroutine that lasts as long as the program.
func (p *Peer) Lines(heard func(line []byte)) {
	p.readers.Go(func() {
		for scanner := bufio.NewScanner(p.Out); scanner.Scan(); {
			heard(scanner.Bytes())
		}
	})
}

// Signal goes to the program alone.
func (p *Peer) Signal(sig os.Signal) {
	if err := p.cmd.Process.Signal(sig); err != nil {
		p.t.Error(err)
	}
}
