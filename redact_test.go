package wsshard_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
)

// canary is the secret; it stands wherever an application may have one.
const canary = "c4n4ry"

// ledger is everything that a manager says to the outside, in every form.
type ledger struct {
	mu   sync.Mutex // protects following fields
	log  bytes.Buffer
	said []string
}

func (l *ledger) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.log.Write(p)
}

// say takes down v as every verb prints it, and all that an error wraps.
func (l *ledger) say(v any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, verb := range []string{"%v", "%+v", "%#v", "%q", "%s"} {
		l.said = append(l.said, fmt.Sprintf(verb, v))
	}
	l.unwrap(v)
}

func (l *ledger) unwrap(v any) {
	switch v := v.(type) {
	case interface{ Unwrap() error }:
		if inner := v.Unwrap(); inner != nil {
			l.said = append(l.said, fmt.Sprintf("%v %+v %#v", inner, inner, inner))
			l.unwrap(inner)
		}
	case interface{ Unwrap() []error }:
		for _, inner := range v.Unwrap() {
			l.said = append(l.said, fmt.Sprintf("%v %+v %#v", inner, inner, inner))
			l.unwrap(inner)
		}
	}
}

// check looks for the canary, whole or in pieces of another encoding.
func (l *ledger) check(t *testing.T) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.log.Len() == 0 || len(l.said) == 0 {
		t.Errorf("%d bytes of log, %d things said: nothing was looked at", l.log.Len(), len(l.said))
	}
	for _, text := range append(strings.Split(l.log.String(), "\n"), l.said...) {
		if strings.Contains(strings.ToLower(text), canary) || strings.Contains(text, "YzRuNHJ5") {
			t.Errorf("leaks: %s", text)
		}
	}
}

// teller is a stepper that takes everything down.
type teller struct {
	stepper
	*ledger
}

func (tl *teller) OnError(_ context.Context, err error, st wsshard.ConnectionState) bool {
	tl.say(err)
	tl.say(st)
	return true
}

func (tl *teller) OnDisconnect(_ context.Context, cause error, st wsshard.ConnectionState) {
	tl.say(cause)
}

func (tl *teller) OnEvent(ev wsshard.Event[string]) { tl.say(ev) }

// Every way to fail, with a secret wherever one can be: nothing that leaves the library shows it.
func TestSecretsStayIn(t *testing.T) {
	refuse := func(context.Context, int, string) error { return syscall.ECONNREFUSED }
	echo := func(c *rawConn) string { // what a debugging server sends back
		var b bytes.Buffer
		fmt.Fprintf(&b, "%s\r\n", c.req.RequestURI)
		c.req.Header.Write(&b)
		return b.String()
	}
	script := func(f func(c *rawConn)) func(w *world, tl *teller) {
		return func(w *world, _ *teller) { w.serveRaw("raw:80", nil, f) }
	}
	url := func(raw string) func(w *world, tl *teller) {
		return func(_ *world, tl *teller) {
			tl.urlStep = func(context.Context) (string, error) { return raw, nil }
		}
	}
	header := func(name, value string) func(w *world, tl *teller) {
		return func(_ *world, tl *teller) {
			tl.headerStep = func(context.Context) (http.Header, error) { return http.Header{name: {value}}, nil }
		}
	}
	for name, drive := range map[string]func(w *world, tl *teller){
		"refused": func(w *world, _ *teller) { w.net.OnDial(refuse) },
		"no such name": func(w *world, _ *teller) {
			w.net.OnDial(func(context.Context, int, string) error {
				return &net.DNSError{Name: "raw", Err: "no such host", IsNotFound: true}
			})
		},
		"dial timeout": stallDial,
		"mute":         func(w *world, _ *teller) { w.serveMute("raw:80", "") },
		"closed":       script(func(c *rawConn) {}),
		"reset":        script(func(c *rawConn) { c.Conn.(interface{ Reset() }).Reset() }),
		"401, echoing": script(func(c *rawConn) {
			c.say("HTTP/1.1 401 " + canary + "\r\nX-Echo: " + canary + "\r\nSet-Cookie: " + canary + "\r\n\r\n" + echo(c))
		}),
		"302, echoing":        script(func(c *rawConn) { c.say("HTTP/1.1 302 Found\r\nLocation: " + c.req.RequestURI + "\r\n\r\n") }),
		"junk, echoing":       script(func(c *rawConn) { c.say(echo(c)) }),
		"bad header, echoing": script(func(c *rawConn) { c.say("HTTP/1.1 400 Bad Request\r\n" + c.req.RequestURI + "\r\n\r\n") }),
		"bad length, echoing": script(func(c *rawConn) {
			c.say("HTTP/1.1 400 Bad Request\r\nContent-Length: " + c.req.RequestURI + "\r\n\r\n")
		}),
		"bad version, echoing":  script(func(c *rawConn) { c.say("HTTP/" + c.req.RequestURI + " 400\r\n\r\n") }),
		"wrong accept":          script(func(c *rawConn) { c.say(strings.Replace(right, "ACCEPT", canary, 1) + "\r\n") }),
		"unoffered extension":   script(func(c *rawConn) { c.say(c.switching("Sec-WebSocket-Extensions: " + canary)) }),
		"unoffered subprotocol": script(func(c *rawConn) { c.say(c.switching("Sec-WebSocket-Protocol: " + canary)) }),
		"lost":                  script(func(c *rawConn) { c.upgrade() }),
		"closed by a frame":     script(func(c *rawConn) { c.upgrade(); c.frame(fin|opClose, closePayload(4000, "bye")); c.gone() }),
		"bad frame":             script(func(c *rawConn) { c.upgrade(); c.say("\xff\xff" + canary); c.gone() }),
		"bad text":              script(func(c *rawConn) { c.upgrade(); c.frame(fin|opText, canary+"\xff"); c.gone() }),
		"fine":                  script(func(c *rawConn) { c.upgrade(); c.frame(fin|opText, canary); c.gone() }),
		"TLS to no TLS": func(w *world, tl *teller) {
			url("wss://raw/"+canary)(w, tl)
			w.serveMute("raw:443", "HTTP/1.1 400 "+canary+"\r\n\r\n")
		},
		"TLS, unknown authority": func(w *world, tl *teller) {
			url("wss://raw/"+canary)(w, tl)
			w.serveRaw("raw:443", &tls.Config{Certificates: []tls.Certificate{newAuthority(w.t).issue(time.Hour, "raw")}}, func(*rawConn) {})
		},
		"URL with a user":             url("ws://" + canary + ":" + canary + "@raw/"),
		"URL with a fragment":         url("ws://raw/#" + canary),
		"URL that is none":            url("ws://raw/%zz" + canary),
		"URL with a newline":          url("ws://raw/?" + canary + "\n"),
		"URL of another kind":         url("http://raw/" + canary),
		"URL without a scheme":        url(canary),
		"URL with a bad port":         url("ws://raw:80:80/" + canary),
		"URL without a host":          url("ws:///" + canary),
		"URL, opaque":                 url("ws:" + canary),
		"URL, bad host":               url("ws://ra w/" + canary),
		"URL, not parsed twice":       url("ws://[::%25\xc0]/" + canary),
		"URL, bad escape in the user": url("ws://%zz" + canary + "@raw/"),
		"bad header value":            header("Authorization", canary+"\n"),
		"reserved header":             header("Upgrade", canary),
		"bad header name":             header("A B", canary),
		"bad Host":                    header("Host", canary+"/"),
		"login fails": func(w *world, tl *teller) {
			script(func(c *rawConn) { c.upgrade(); c.frame(fin|opText, canary+"\xff"); c.gone() })(w, tl)
			tl.loginStep = func(ctx context.Context, conn wsshard.LoginConn) error {
				conn.Write(ctx, wsshard.Text(canary))
				_, err := conn.Read(ctx)
				return err
			}
		},
		"encoding fails": func(w *world, tl *teller) {
			script(func(c *rawConn) { c.upgrade(); c.gone() })(w, tl)
			tl.app.encode = func(string, wsshard.Request[string]) (wsshard.Message, error) {
				return wsshard.Text(canary + "\xff"), nil
			}
		},
	} {
		for _, proxy := range []string{"", "http://u" + canary + ":p" + canary + "@proxy:3128", "socks5://u" + canary + ":p" + canary + "@proxy"} {
			t.Run(name+" "+strings.Split(proxy, ":")[0], func(t *testing.T) {
				tl := &teller{ledger: &ledger{}}
				handlers := slog.NewJSONHandler(tl.ledger, &slog.HandlerOptions{Level: slog.LevelDebug, AddSource: true})
				cfg := dialsOnly()
				cfg.Logger = slog.New(handlers)
				cfg.Connection.Proxy = proxy
				cfg.Connection.Header = http.Header{"Authorization": {"Bearer " + canary}}
				cfg.Connection.ConnectTimeout = time.Second
				cfg.Connection.CircuitBreakerResetTimeout = time.Second
				bubble(t, cfg, func(a *app) wsshard.Handler[string] { tl.app = a; return tl }, func(w *world) {
					tl.app.url = "ws://raw/" + canary + "?token=" + canary
					tl.headerStep = func(context.Context) (http.Header, error) {
						return http.Header{"Cookie": {"session=" + canary}, "X-Key": {canary}}, nil
					}
					if proxy != "" {
						w.serveRaw("proxy:3128", nil, func(c *rawConn) { c.say("HTTP/1.1 407 " + canary + "\r\nX-Echo: " + echo(c) + "\r\n\r\n" + echo(c)) })
						w.serveMute("proxy:1080", "\x05\x02\x01\x01"+canary)
					}
					drive(w, tl)
					w.begin("a")
					after(5 * time.Second)
					m := w.m.Metrics()
					tl.say(m)
					tl.say(m.Shards[0].LastError)
					tl.say(m.Shards[0])
					w.m.Stop(context.Background())
				})
				tl.check(t)
			})
		}
	}
}

func stallDial(w *world, _ *teller) {
	w.net.OnDial(func(ctx context.Context, _ int, _ string) error { <-ctx.Done(); return ctx.Err() })
}

// New's own errors.
func TestConfigErrorsKeepSecrets(t *testing.T) {
	l := &ledger{}
	for _, proxy := range []string{
		"http://" + canary + ":" + canary + "@/", "ftp://" + canary + "@proxy", "http://" + canary + "%zz@proxy", "http://proxy/" + canary, "http://proxy?" + canary,
		"socks5://" + strings.Repeat(canary, 100) + "@proxy", "http://proxy:" + canary, canary, "http://" + canary + "@proxy:1:2", "http://pro xy" + canary,
	} {
		cfg := wsshard.Config{Logger: slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))}
		cfg.Connection.Proxy = proxy
		cfg.Connection.Header = http.Header{"Authorization": {canary + "\r\n"}}
		_, err := wsshard.New(&app{}, cfg)
		var ce *wsshard.ConfigError
		if !errors.As(err, &ce) {
			t.Errorf("%s: %v", proxy, err)
			continue
		}
		l.say(err)
		for _, err := range err.(interface{ Unwrap() []error }).Unwrap() {
			l.say(err)
		}
	}
	l.check(t)
}
