package program

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// This file answers: does a program listen when Launch returns, and is nothing of it left at the end?

// roleVar is the environment variable that makes the test binary something else.
const roleVar = "WSSHARD_PROGRAM"

func TestMain(m *testing.M) {
	switch role, addr, _ := strings.Cut(os.Getenv(roleVar), " "); role {
	case "":
		os.Exit(m.Run())
	case "listen", "listen-with-helper": // after a while
		<-time.After(100 * time.Millisecond)
		if role == "listen-with-helper" { // one that holds the standard output and is hard to end
			helper := exec.Command("sh", "-c", "trap '' TERM HUP; exec sleep 900")
			helper.Stdout = os.Stdout
			if err := helper.Start(); err != nil {
				panic(err)
			}
			fmt.Println("helper", helper.Process.Pid)
			term := make(chan os.Signal, 1)
			signal.Notify(term, syscall.SIGTERM)
			go func() { // an orderly end takes a while
				<-term
				<-time.After(100 * time.Millisecond)
				fmt.Println("in order")
				os.Exit(0)
			}()
		}
		l, err := net.Listen("tcp", addr)
		if err != nil {
			panic(err)
		}
		for {
			if c, err := l.Accept(); err == nil {
				c.Close()
			}
		}
	case "echo":
		io.Copy(os.Stdout, os.Stdin)
	case "parent": // is killed together with what it has started
		listener("listen", addr).Start()
		fmt.Println("started")
		select {}
	}
}

func as(role string) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), roleVar+"="+role)
	return cmd
}

// listener is the test binary as a program that listens.
func listener(role, addr string) *Daemon {
	return &Daemon{Name: "listener", Listens: addr, Command: func() *exec.Cmd { return as(role + " " + addr) }}
}

// addr is where nobody listens. Port is for namespaces of one's own: here others may run these tests, too.
func addr(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// alive says whether a process runs; one that nobody has buried yet does not.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, after, _ := strings.Cut(string(stat), ") ")
	return err == nil && !strings.HasPrefix(after, "Z")
}

func accepts(addr string) bool {
	c, err := net.Dial("tcp", addr)
	if err == nil {
		c.Close()
	}
	return err == nil
}

func TestDaemonListensAndEndsWithItsHelpers(t *testing.T) {
	d := listener("listen-with-helper", addr(t))
	d.Launch(t)
	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		if !accepts(d.Listens) {
			t.Fatal("it does not listen")
		}
		said := d.cmd.Stdout.(*output)
		helper, err := strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(said.String(), "helper ")))
		if err != nil || !alive(helper) {
			t.Fatalf("no helper: it said %q", said)
		}
		d.End(sig)
		if accepts(d.Listens) {
			t.Errorf("it listens after %v", sig)
		}
		if got := strings.HasSuffix(said.String(), "in order\n"); got != (sig == syscall.SIGTERM) {
			t.Errorf("after %v it ended in order: %v", sig, got)
		}
		Eventually(t, "its helper is gone", func() bool { return !alive(helper) })
		d.End(sig) // nothing to end
		if err := d.Start(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestDaemonThatDoesNotListenSaysWhatItSaid(t *testing.T) {
	d := &Daemon{Name: "mute", Listens: addr(t), Command: func() *exec.Cmd { return exec.Command("sh", "-c", "echo no configuration >&2; exec sleep 60") }}
	err := d.start(200 * time.Millisecond)
	if err == nil || !strings.Contains(err.Error(), "mute does not listen on "+d.Listens) || !strings.Contains(err.Error(), "no configuration") {
		t.Errorf("it failed with %v", err)
	}
	if d.cmd != nil {
		t.Error("it runs still")
	}
	d = &Daemon{Name: "absent", Command: func() *exec.Cmd { return exec.Command("/nonexistent") }}
	if err := d.Start(); !errors.Is(err, os.ErrNotExist) || !strings.HasPrefix(err.Error(), "absent: ") {
		t.Errorf("it failed with %v", err)
	}
}

// TestProgramsEndWithTheirParent: whoever kills a test with SIGKILL finds no server of it afterwards.
func TestProgramsEndWithTheirParent(t *testing.T) {
	at := addr(t)
	parent := as("parent " + at)
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || !accepts(at) {
		t.Errorf("it said %q, %v", line, err)
	}
	parent.Process.Kill()
	parent.Wait()
	Eventually(t, "the program of the parent is gone", func() bool { return !accepts(at) })
}

func TestPeerIsHeardToTheEnd(t *testing.T) {
	const lines = 10_000 // fewer bytes than a pipe takes
	var heard []string
	t.Run("inner", func(t *testing.T) {
		p := Talk(t, "echo", as("echo"))
		p.Lines(func(line []byte) {
			for len(heard) == 0 && alive(p.cmd.Process.Pid) { // the rest is read when the program is gone
				runtime.Gosched()
			}
			heard = append(heard, string(line))
		})
		for i := range lines {
			fmt.Fprintln(p.In, i)
		}
	})
	if len(heard) != lines || heard[lines-1] != fmt.Sprint(lines-1) {
		t.Errorf("heard %d lines: %.100q", len(heard), heard)
	}
}

func TestFindNamesWhatIsMissing(t *testing.T) {
	if err := Find("sh"); err != nil {
		t.Error(err)
	}
	err := Find("no-such-a", "sh", "no-such-b")
	if err == nil || !strings.HasPrefix(err.Error(), "no-such-a, no-such-b: ") {
		t.Fatalf("%v", err)
	}
	fields := strings.Fields(err.Error())
	if script := fields[len(fields)-1]; !strings.HasSuffix(script, ".sh") {
		t.Errorf("%v names no script", err)
	} else if _, err := os.Stat(filepath.Join("../../..", script)); err != nil {
		t.Error(err)
	}
}

func TestEveryUserMayReadFiles(t *testing.T) {
	dir := Dir(t)
	file := File(t, dir, "conf", "text")
	for path, want := range map[string]os.FileMode{file: 0o444, dir: 0o555, filepath.Dir(dir): 0o555} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm()&want != want {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
}

func TestPortsAreGivenOnce(t *testing.T) {
	seen := make(map[int]bool)
	for range 100 {
		port := Port()
		if seen[port] || port <= 1024 || port >= 32768 {
			t.Errorf("port %d", port)
		}
		seen[port] = true
	}
}
