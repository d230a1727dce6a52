package harness

import (
	"errors"
	"io"
	"net"
	"strings"
	"syscall"

	"github.com/seed-829c304d/wsshard"
)

// This file answers: which proxies are not as they should be?

// BadProxy is a proxy that misbehaves, and what must be made of it.
type BadProxy struct {
	Name   string
	Scheme string
	Serve  func(c net.Conn) // nil: nobody listens
	Step   string           // of the ProxyError; empty: the way is open
	status int
	is     error  // what it wraps
	says   string // part of its text
}

// IsIn says whether err tells of the proxy what it should.
func (b BadProxy) IsIn(err error) bool {
	var pe *wsshard.ProxyError
	var he *wsshard.HandshakeError
	switch {
	case b.Step == "": // the way is open, and it is the server that says no
		return !errors.As(err, &pe) && errors.As(err, &he) && he.StatusCode == b.status
	case !errors.As(err, &pe), pe.Step != b.Step, pe.StatusCode != b.status, !strings.HasPrefix(pe.Proxy, b.Scheme+"://proxy:"):
		return false
	}
	return (b.is == nil || errors.Is(err, b.is)) && strings.Contains(err.Error(), b.says)
}

// ProxyAnswers is an HTTP proxy that says text and hangs up.
func ProxyAnswers(text string) func(c net.Conn) {
	return func(c net.Conn) {
		ReadHead(c)
		io.WriteString(c, text)
	}
}

// ProxyReplies is a SOCKS proxy that reads so many bytes before it says each piece, and then hangs up.
func ProxyReplies(script ...any) func(c net.Conn) {
	return func(c net.Conn) {
		for _, s := range script {
			switch s := s.(type) {
			case int:
				io.ReadFull(c, make([]byte, s))
			case string:
				io.WriteString(c, s)
			case func(net.Conn):
				s(c)
			}
		}
	}
}

const (
	SocksHello   = 4                                          // bytes of the greeting with credentials
	socksLogin   = 3 + len(CanaryUser) + len(CanaryPassword)  // of the login
	SocksConnect = 7 + len("srv")                             // of the request
	socksOK      = "\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00" // an answer to it
	socksRefused = "\x00\x00\x01\x00\x00\x00\x00\x00\x00"     // the same, less version and reply
)

// LoggedIn is a SOCKS proxy that takes the login, and then goes on with a script.
func LoggedIn(script ...any) func(c net.Conn) {
	return ProxyReplies(append([]any{SocksHello, "\x05\x02", socksLogin, "\x01\x00"}, script...)...)
}

func replied(code string) func(c net.Conn) {
	return LoggedIn(SocksConnect, "\x05"+code+socksRefused)
}

// EndlessAnswer never comes to the end of its answer's head.
func EndlessAnswer(c net.Conn) {
	ReadHead(c)
	for io.WriteString(c, "HTTP/1.1 200 OK\r\n"); ; {
		if _, err := io.WriteString(c, "X-Filler: "+strings.Repeat("x", 1000)+"\r\n"); err != nil {
			return
		}
	}
}

func oneLine(c net.Conn) {
	for ReadHead(c); ; {
		if _, err := io.WriteString(c, strings.Repeat("HTTP", 1000)); err != nil {
			return
		}
	}
}

func echo(c net.Conn) { io.WriteString(c, ReadHead(c)) }

func reset(c net.Conn) { c.(interface{ Reset() }).Reset() }

func through(c net.Conn) { // the rest is the server's part, in a few words
	ReadHead(c)
	io.WriteString(c, "HTTP/1.1 418 Here\r\nContent-Length: 0\r\n\r\n")
}

// early is what a server says before it is asked: it comes in one piece with the proxy's answer.
const early = "HTTP/1.1 418 Early\r\nContent-Length: 0\r\n\r\n"

func readHeadOf(c net.Conn) { ReadHead(c) }

func after200(status string) func(c net.Conn) {
	return func(c net.Conn) { ProxyAnswers(status)(c); through(c) }
}

// BadProxies are all of them, and some that are odd but good.
var BadProxies = []BadProxy{
	{"refused", "http", nil, "dial", 0, syscall.ECONNREFUSED, ""},
	{"hangs up", "http", readHeadOf, "connect", 0, io.ErrUnexpectedEOF, ""},
	{"hangs up in its answer", "http", ProxyAnswers("HTTP/1.1 20"), "connect", 0, io.ErrUnexpectedEOF, ""},
	{"resets", "http", reset, "connect", 0, syscall.ECONNRESET, ""},
	{"401", "http", ProxyAnswers("HTTP/1.1 401 Unauthorized\r\n\r\n"), "auth", 401, nil, "credentials"},
	{"407", "http", ProxyAnswers("HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 1000\r\n\r\n"), "auth", 407, nil, "credentials"},
	{"407 without a reason", "http", ProxyAnswers("HTTP/1.0 407\n\n"), "auth", 407, nil, ""},
	{"403", "http", ProxyAnswers("HTTP/1.1 403 Forbidden\r\n\r\n"), "connect", 403, nil, "no tunnel"},
	{"500", "http", ProxyAnswers("HTTP/1.1 500 No\r\n\r\n"), "connect", 500, nil, ""},
	{"502", "http", ProxyAnswers("HTTP/1.1 502 Bad Gateway\r\n\r\n"), "connect", 502, nil, ""},
	{"302", "http", ProxyAnswers("HTTP/1.1 302 Found\r\nLocation: http://srv/\r\n\r\n"), "connect", 302, nil, ""},
	{"junk", "http", ProxyAnswers("SSH-2.0-OpenSSH_9.2\r\n"), "connect", 0, nil, "not HTTP"},
	{"status 000", "http", ProxyAnswers("HTTP/0.0 000\n\n"), "connect", 0, nil, ""},
	{"no status", "http", ProxyAnswers("HTTP/1.1\r\n\r\n"), "connect", 0, nil, "not HTTP"},
	{"binary", "http", ProxyAnswers("\x05\x00\x00\xff\xfe\r\n\r\n"), "connect", 0, nil, "not HTTP"},
	{"bad header", "http", ProxyAnswers("HTTP/1.1 200 OK\r\n" + CanaryUser + "\r\n\r\n"), "connect", 0, nil, "not HTTP"},
	{"echo", "http", echo, "connect", 0, nil, "not HTTP"},
	{"endless head", "http", EndlessAnswer, "connect", 0, nil, "too long"},
	{"endless line", "http", oneLine, "connect", 0, nil, "too long"},
	{"only 1xx", "http", ProxyAnswers(strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 9)), "connect", 0, nil, "informational"},
	{"1xx, then 407", "http", ProxyAnswers("HTTP/1.1 103 Hints\r\n\r\nHTTP/1.1 407 Who\r\n\r\n"), "auth", 407, nil, ""},
	{"1xx, then open", "http", after200("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"), "", 418, nil, ""},
	{"200 without a reason", "http", after200("HTTP/1.1 200\r\n\r\n"), "", 418, nil, ""},
	{"HTTP/1.0", "http", after200("HTTP/1.0 200 OK\n\n"), "", 418, nil, ""},
	{"204", "http", after200("HTTP/1.1 204 No Content\r\n\r\n"), "", 418, nil, ""},
	{"299 with a length", "http", after200("HTTP/1.1 299 Fine\r\nContent-Length: 7\r\n\r\n"), "", 418, nil, ""},
	{"early bytes", "http", ProxyReplies(ProxyAnswers("HTTP/1.1 200 OK\r\n\r\n"+early), readHeadOf), "", 418, nil, ""},
	{"dies in the tunnel", "http", ProxyReplies(ProxyAnswers("HTTP/1.1 200 OK\r\n\r\n"), readHeadOf), "tunnel", 0, io.ErrUnexpectedEOF, ""},
	{"resets the tunnel", "http", func(c net.Conn) { ProxyAnswers("HTTP/1.1 200 OK\r\n\r\n")(c); ReadHead(c); reset(c) }, "tunnel", 0, syscall.ECONNRESET, ""},
	{"speaks no TLS", "https", ProxyReplies(5, "HTTP/1.1 400 Bad Request\r\n\r\n"), "tls", 0, nil, "TLS"},
	{"hangs up on TLS", "https", func(c net.Conn) { c.Read(make([]byte, 5)) }, "tls", 0, io.EOF, "TLS"},
	{"TLS alert", "https", func(c net.Conn) { c.Write([]byte{21, 3, 3, 0, 2, 2, 40}); io.Copy(io.Discard, c) }, "tls", 0, nil, "TLS"},

	{"refused", "socks5", nil, "dial", 0, syscall.ECONNREFUSED, ""},
	{"refused", "socks5h", nil, "dial", 0, syscall.ECONNREFUSED, ""},
	{"hangs up", "socks5", ProxyReplies(SocksHello), "greeting", 0, io.EOF, ""},
	{"resets", "socks5", reset, "greeting", 0, syscall.ECONNRESET, ""},
	{"speaks HTTP", "socks5", ProxyReplies(SocksHello, "HTTP/1.1 400 Bad\r\n\r\n"), "greeting", 0, nil, "version"},
	{"version 4", "socks5", ProxyReplies(SocksHello, "\x04\x00"), "greeting", 0, nil, "version 4"},
	{"short greeting", "socks5", ProxyReplies(SocksHello, "\x05"), "greeting", 0, io.ErrUnexpectedEOF, ""},
	{"no method", "socks5", ProxyReplies(SocksHello, "\x05\xff"), "auth", 0, nil, "credentials"},
	{"method that was not offered", "socks5", ProxyReplies(SocksHello, "\x05\x01"), "greeting", 0, nil, "not offered"},
	{"refuses the password", "socks5", ProxyReplies(SocksHello, "\x05\x02", socksLogin, "\x01\x01"), "auth", 0, nil, "credentials"},
	{"hangs up on the password", "socks5", ProxyReplies(SocksHello, "\x05\x02", socksLogin), "auth", 0, io.EOF, ""},
	{"short answer to the password", "socks5", ProxyReplies(SocksHello, "\x05\x02", socksLogin, "\x01"), "auth", 0, io.ErrUnexpectedEOF, ""},
	{"bad answer to the password", "socks5", ProxyReplies(SocksHello, "\x05\x02", socksLogin, "\x05\x00"), "auth", 0, nil, "version"},
	{"hangs up on the request", "socks5", LoggedIn(SocksConnect), "connect", 0, io.EOF, ""},
	{"short reply", "socks5", LoggedIn(SocksConnect, "\x05\x00\x00"), "connect", 0, io.ErrUnexpectedEOF, ""},
	{"short address", "socks5", LoggedIn(SocksConnect, socksOK[:8]), "connect", 0, io.ErrUnexpectedEOF, ""},
	{"reply of version 4", "socks5", LoggedIn(SocksConnect, "\x04\x00"+socksOK[2:]), "connect", 0, nil, "version 4"},
	{"reserved byte", "socks5", LoggedIn(SocksConnect, "\x05\x00\x01"+socksOK[3:]), "connect", 0, nil, "reserved"},
	{"address type 9", "socks5", LoggedIn(SocksConnect, "\x05\x00\x00\x09"+socksOK[4:]), "connect", 0, nil, "address type 9"},
	{"general failure", "socks5", replied("\x01"), "connect", 0, nil, "could not reach"},
	{"not allowed", "socks5", replied("\x02"), "connect", 0, nil, "not allowed"},
	{"network unreachable", "socks5", replied("\x03"), "connect", 0, nil, "could not reach"},
	{"host unreachable", "socks5", replied("\x04"), "connect", 0, nil, "could not reach"},
	{"target refused", "socks5h", replied("\x05"), "connect", 0, nil, "refused"},
	{"TTL expired", "socks5", replied("\x06"), "connect", 0, nil, "could not reach"},
	{"command not supported", "socks5", replied("\x07"), "connect", 0, nil, "not supported"},
	{"reply 91", "socks5", replied("\x5b"), "connect", 0, nil, "91"},
	{"no password wanted", "socks5", ProxyReplies(SocksHello, "\x05\x00", SocksConnect, socksOK, through), "", 418, nil, ""},
	{"bound to a name", "socks5", LoggedIn(SocksConnect, "\x05\x00\x00\x03\x04name\x00\x50", through), "", 418, nil, ""},
	{"bound to IPv6", "socks5", LoggedIn(SocksConnect, "\x05\x00\x00\x04"+strings.Repeat("\x00", 18), through), "", 418, nil, ""},
	{"early bytes", "socks5", LoggedIn(SocksConnect, socksOK+early, readHeadOf), "", 418, nil, ""},
	{"dies in the tunnel", "socks5", LoggedIn(SocksConnect, socksOK, readHeadOf), "tunnel", 0, io.ErrUnexpectedEOF, ""},
}
