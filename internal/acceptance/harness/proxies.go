package harness

import (
	"bufio"
	"encoding/base64"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// This file answers: how does a proxy work that is as it should be?

// ReadHead reads until an empty line.
func ReadHead(c net.Conn) string {
	var head []byte
	b := make([]byte, 1)
	for len(head) < 4 || string(head[len(head)-4:]) != "\r\n\r\n" {
		if _, err := c.Read(b); err != nil {
			break
		}
		head = append(head, b[0])
	}
	return string(head)
}

// ProxyServer is what a proxy does for one client.
type ProxyServer struct {
	User, Password string // asked for, when not empty
	Dial           func(addr string) (net.Conn, error)

	mu      sync.Mutex
	targets []string // what was asked for
	clients []string // addresses of those who asked
}

func (p *ProxyServer) note(c net.Conn, target string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.targets = append(p.targets, target)
	p.clients = append(p.clients, c.RemoteAddr().String())
}

// Asked returns what was asked for, and by whom.
func (p *ProxyServer) Asked() (targets, clients []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.targets...), append([]string(nil), p.clients...)
}

// Socks5 serves RFC 1928 and 1929, as much as a client needs.
func (p *ProxyServer) Socks5(c net.Conn) {
	b := make([]byte, 262)
	read := func(n int) []byte {
		io.ReadFull(c, b[:n])
		return b[:n]
	}
	offered := string(read(int(read(2)[1])))
	if p.User != "" {
		if !strings.Contains(offered, "\x02") {
			c.Write([]byte{5, 0xff})
			return
		}
		c.Write([]byte{5, 2})
		user := string(read(int(read(2)[1])))
		password := string(read(int(read(1)[0])))
		if user != p.User || password != p.Password {
			c.Write([]byte{1, 1})
			return
		}
		c.Write([]byte{1, 0})
	} else {
		c.Write([]byte{5, 0})
	}
	host := ""
	switch read(4)[3] {
	case 1:
		host = net.IP(read(4)).String()
	case 3:
		host = string(read(int(read(1)[0])))
	case 4:
		host = net.IP(read(16)).String()
	}
	port := read(2)
	target := net.JoinHostPort(host, strconv.Itoa(int(port[0])<<8|int(port[1])))
	p.note(c, target)
	out, err := p.Dial(target)
	if err != nil {
		c.Write([]byte{5, 5, 0, 1, 0, 0, 0, 0, 0, 0})
		return
	}
	c.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
	JoinConns(c, c, out)
}

// Connect serves HTTP CONNECT.
func (p *ProxyServer) Connect(c net.Conn) {
	br := bufio.NewReader(c)
	req, err := http.ReadRequest(br)
	if err != nil || req.Method != http.MethodConnect {
		io.WriteString(c, "HTTP/1.1 405 What\r\n\r\n")
		return
	}
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte(p.User+":"+p.Password))
	if p.User != "" && req.Header.Get("Proxy-Authorization") != want {
		io.WriteString(c, "HTTP/1.1 407 Who\r\nProxy-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0\r\n\r\n")
		return
	}
	p.note(c, req.Host)
	out, err := p.Dial(req.Host)
	if err != nil {
		io.WriteString(c, "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
		return
	}
	io.WriteString(c, "HTTP/1.1 200 Connection established\r\n\r\n")
	JoinConns(c, br, out)
}

// JoinConns copies both ways until one side ends.
func JoinConns(c net.Conn, from io.Reader, out net.Conn) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		io.Copy(c, out)
		c.Close()
	}()
	io.Copy(out, from)
	out.Close()
	<-done
}

// ServeConns serves a listener until the test ends.
func ServeConns(t testing.TB, l net.Listener, serve func(c net.Conn)) {
	var all sync.WaitGroup
	var mu sync.Mutex
	open := map[net.Conn]struct{}{}
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[c] = struct{}{}
			mu.Unlock()
			all.Go(func() {
				serve(c)
				c.Close()
				mu.Lock()
				delete(open, c)
				mu.Unlock()
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for c := range open {
			c.Close()
		}
		mu.Unlock()
		all.Wait()
	})
}
