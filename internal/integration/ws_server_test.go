//go:build integration

package integration

import (
	"bufio"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// This file answers: how does a test run server.js, and what does the server say?

// installWS puts server.js and what it needs into a directory.
func installWS(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for _, file := range []string{"package.json", "package-lock.json", "server.js"} {
		data, err := os.ReadFile(filepath.Join("testdata", "ws", file))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, file), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	npm := exec.Command("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
	npm.Dir = dir
	if out, err := npm.CombinedOutput(); err != nil {
		t.Fatalf("npm ci: %v\n%s", err, out)
	}
	return dir
}

// wsServer is a process of node.
type wsServer struct {
	t    *testing.T
	in   io.Writer
	port int

	mu       sync.Mutex // protects following fields
	commands int
	lines    []wsLine
}

// wsLine is what the server says: the reply to a command, or an event.
type wsLine struct {
	Reply      int            `json:"reply"`
	Event      string         `json:"event"`
	Client     int            `json:"client"`
	Port       int            `json:"port"`
	Code       int            `json:"code"`
	Text       string         `json:"text"`
	Extensions string         `json:"extensions"`
	Topics     [][]string     `json:"topics"`
	Numbers    map[string]int `json:"numbers"`
}

// startWS starts a server in a directory that installWS has made. It ends with the test.
func startWS(t *testing.T, dir string) *wsServer {
	t.Helper()
	cmd := exec.Command("node", "server.js")
	cmd.Dir, cmd.Stderr = dir, os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	n := &wsServer{t: t, in: in}
	var reader sync.WaitGroup
	reader.Go(func() { n.listen(out) })
	t.Cleanup(func() {
		in.Close()
		reader.Wait()
		if err := cmd.Wait(); err != nil {
			t.Errorf("node: %v", err)
		}
	})
	eventually(t, "the server listens", func() bool {
		for _, line := range n.heard("listening") {
			n.port = line.Port
		}
		return n.port != 0
	})
	return n
}

func (n *wsServer) listen(out io.Reader) {
	for scanner := bufio.NewScanner(out); scanner.Scan(); {
		var line wsLine
		if err := json.Unmarshal(scanner.Bytes(), &line); err != nil {
			n.t.Errorf("the server said %q", scanner.Text())
			continue
		}
		n.mu.Lock()
		n.lines = append(n.lines, line)
		n.mu.Unlock()
	}
}

// heard returns the events of a kind so far.
func (n *wsServer) heard(event string) (lines []wsLine) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, line := range n.lines {
		if line.Event == event {
			lines = append(lines, line)
		}
	}
	return lines
}

// wsCommand is what the server can be told.
type wsCommand struct {
	Number int      `json:"number"`
	Do     string   `json:"do"`
	Topics []string `json:"topics,omitempty"`
	Pad    int      `json:"pad,omitempty"`
	MS     int      `json:"ms,omitempty"`
	Code   int      `json:"code,omitempty"`
	Text   string   `json:"text,omitempty"`
}

// tell gives a command and waits for the reply.
func (n *wsServer) tell(c wsCommand) (reply wsLine) {
	n.t.Helper()
	n.mu.Lock()
	n.commands++
	c.Number = n.commands
	n.mu.Unlock()
	line, err := json.Marshal(c)
	if err == nil {
		_, err = n.in.Write(append(line, '\n'))
	}
	if err != nil {
		n.t.Fatal(err)
	}
	eventually(n.t, c.Do+" is done", func() bool {
		n.mu.Lock()
		defer n.mu.Unlock()
		for _, line := range n.lines {
			if line.Reply == c.Number {
				reply = line
				return true
			}
		}
		return false
	})
	return reply
}
