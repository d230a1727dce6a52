//go:build integration

package servers

import (
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/seed-829c304d/wsshard/internal/realworld/program"
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
		program.File(t, dir, file, string(data))
	}
	npm := exec.Command("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
	npm.Dir = dir
	program.Run(t, npm)
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
	cmd.Dir = dir
	p := program.Talk(t, "node", cmd)
	n := &wsServer{t: t, in: p.In}
	p.Lines(n.hear)
	program.Eventually(t, "the server listens", func() bool {
		for _, line := range n.heard("listening") {
			n.port = line.Port
		}
		return n.port != 0
	})
	return n
}

// hear takes down a line of the server's.
func (n *wsServer) hear(text []byte) {
	var line wsLine
	if err := json.Unmarshal(text, &line); err != nil {
		n.t.Errorf("the server said %q", text)
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lines = append(n.lines, line)
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
	program.Eventually(n.t, c.Do+" is done", func() bool {
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
