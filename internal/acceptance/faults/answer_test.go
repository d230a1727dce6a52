package faults

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// This file answers: what may a server answer to the handshake? Rows 2 to 8, 11, 20 and 49 of the matrix.

// answered is a strike in which the server's answer is this text, with ACCEPT for what the key calls for, and then the end.
// The error has this status, 0 where there is none, -1 where the connection broke off; and this word in its reason.
func answered(name, text string, status int, reason string) strike {
	return strike{
		name: name, do: func(c *cell, _ target) { c.serve(harness.AnswerWith(text)) },
		is: func(err error) bool {
			var he *wsshard.HandshakeError
			if status < 0 {
				return errors.Is(err, io.ErrUnexpectedEOF) && !errors.As(err, &he)
			}
			return errors.As(err, &he) && he.StatusCode == status && strings.Contains(he.Error(), reason)
		},
	}
}

// rejected is a strike in which the server answers with a status.
func rejected(status int, header http.Header, check func(c *cell)) strike {
	return strike{
		name: strings.TrimSpace(fmt.Sprint(status, " ", header.Get("Retry-After")+header.Get("Location"))), check: check,
		do: func(c *cell, _ target) {
			c.Srv.Reject(func(r *http.Request) (int, http.Header, string) { // a server that repeats all it was told
				echo := http.Header{"Set-Cookie": {harness.Canary}, "X-Echo": r.Header.Values("Cookie")}
				for name, values := range header {
					echo[name] = values
				}
				return status, echo, r.RequestURI
			})
		},
		is: func(err error) bool {
			var he *wsshard.HandshakeError
			return errors.As(err, &he) && he.StatusCode == status
		},
	}
}

// endlessly is a strike in which the server's answer does not end. Of it no more may be taken than a head may have.
func endlessly(name, first, again string) strike {
	var taken atomic.Int64
	return strike{
		name: name, is: func(err error) bool { return err != nil && !errors.Is(err, context.DeadlineExceeded) },
		do: func(c *cell, _ target) {
			taken.Store(0)
			block := strings.Repeat(again, 4096/len(again))
			c.serve(func(rc *harness.RawConn) {
				rc.Say(first)
				for sent := 0; sent < 100<<20; {
					n, err := rc.Write([]byte(block))
					if sent += n; int64(sent) > taken.Load() {
						taken.Store(int64(sent))
					}
					if err != nil {
						return
					}
				}
			})
		},
		check: func(c *cell) {
			if n := taken.Load(); n > 256<<10 {
				c.T.Errorf("%d bytes were taken", n)
			}
		},
	}
}

var answerFaults = []*row{
	{no: 2, name: "never_upgrades", kind: dialFault, strikes: []strike{
		{name: "silence", do: mumbles(""), is: harness.Is(context.DeadlineExceeded), check: afterTenSeconds},
		{name: "half a head", do: mumbles("HTTP/1.1 101 Switching Protocols\r\nUpgr"), is: harness.Is(context.DeadlineExceeded), check: afterTenSeconds},
		{name: "half a body", do: mumbles("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhal"), check: afterTenSeconds, is: func(err error) bool {
			var he *wsshard.HandshakeError
			return errors.As(err, &he) && he.StatusCode == 200 && string(he.Body) == "hal"
		}},
	}},
	{no: 3, name: "slow_loris", kind: dialFault, strikes: []strike{{is: harness.Is(context.DeadlineExceeded), check: afterTenSeconds, do: func(c *cell, _ target) {
		c.serve(func(rc *harness.RawConn) {
			rc.Trickle("HTTP/1.1 101 Switching Protocols\r\n"+strings.Repeat("X-A: b\r\n", 10000), 20*time.Millisecond)
		})
	}}}},
	{no: 4, name: "endless_headers", kind: dialFault, strikes: []strike{
		endlessly("status line", "HTTP/1.1 200 ", harness.Canary), endlessly("no line at all", "", harness.Canary),
		endlessly("header lines", "HTTP/1.1 101 Switching Protocols\r\n", "X-A: "+harness.Canary+"\r\n"),
		endlessly("one header line", "HTTP/1.1 101 Switching Protocols\r\nX-A: ", harness.Canary),
		endlessly("a folded line", "HTTP/1.1 101 Switching Protocols\r\nX-A: ", "\r\n "+harness.Canary),
		endlessly("a name", "HTTP/1.1 101 Switching Protocols\r\nX", "y"),
		endlessly("interim answers", "", "HTTP/1.1 103 Early Hints\r\n\r\n"), endlessly("a body", "HTTP/1.1 200 OK\r\n\r\n", harness.Canary),
		endlessly("a chunk extension", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;x=", "y"),
	}},
	{no: 5, name: "retry_after", kind: dialFault, real: "internal/realworld/proxies: TestAddressAtItsLimit", strikes: []strike{
		rejected(429, http.Header{"Retry-After": {"30"}}, waits30), rejected(503, http.Header{"Retry-After": {"30"}}, waits30),
		rejected(418, http.Header{"Retry-After": {"30"}}, waits30),
		{name: "date", is: rejected(429, nil, nil).is, check: waits30, do: func(c *cell, _ target) {
			c.Srv.Reject(func(*http.Request) (int, http.Header, string) {
				return 429, http.Header{"Retry-After": {time.Now().Add(30 * time.Second).UTC().Format(http.TimeFormat)}}, ""
			})
		}},
	}},
	{no: 6, name: "forbidden", kind: dialFault, strikes: []strike{rejected(401, nil, unhurried), rejected(403, nil, unhurried)}}, // OnError that says no: row 53
	{no: 7, name: "redirected", kind: dialFault, strikes: func() (all []strike) {
		for _, status := range []int{301, 302, 307} {
			for _, to := range []string{"ws://elsewhere/", "http://169.254.169.254/" + harness.Canary, "//elsewhere/", "/other"} {
				all = append(all, rejected(status, http.Header{"Location": {to}}, func(c *cell) { c.wantDialled("srv:80") }))
			}
		}
		return all
	}()},
	{no: 8, name: "no_upgrade", kind: dialFault, strikes: []strike{
		answered("200", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", 200, ""),
		answered("204", "HTTP/1.1 204 No Content\r\n\r\n", 204, ""),
		answered("400", "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\nno", 400, ""),
		answered("404", "HTTP/1.1 404 Not Found\r\n\r\n", 404, ""),
		answered("426", "HTTP/1.1 426 Upgrade Required\r\nUpgrade: h2c\r\n\r\n", 426, ""),
		answered("500", "HTTP/1.1 500 Internal Server Error\r\n\r\n", 500, ""),
		answered("502", "HTTP/1.1 502 Bad Gateway\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 502, ""),
		answered("status without a reason", "HTTP/1.1 503\r\n\r\n", 503, ""),
		answered("unknown status", "HTTP/1.1 799 Who Knows\r\n\r\n", 799, ""),
		answered("503 after 100", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 No\r\n\r\n", 503, ""),
		answered("404 after 103", "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 404 No\r\n\r\n", 404, ""),
		answered("HTTP 1.0 200", "HTTP/1.0 200 OK\r\n\r\nhi", 200, ""),
		answered("HTTP 1.0 101", strings.Replace(harness.RightAnswer, "1.1", "1.0", 1)+"\r\n", 101, "HTTP/1.0"),
		answered("HTTP 2", "HTTP/2.0 101\r\n\r\n", 101, "headers"),
		answered("101 without anything", "HTTP/1.1 101 Switching Protocols\r\n\r\n", 101, "headers"),
		answered("101 without Upgrade", strings.Replace(harness.RightAnswer, "Upgrade: websocket\r\n", "", 1)+"\r\n", 101, "headers"),
		answered("101 to another protocol", strings.Replace(harness.RightAnswer, "websocket", "h2c", 1)+"\r\n", 101, "headers"),
		answered("101 without Connection", strings.Replace(harness.RightAnswer, "Connection: Upgrade\r\n", "", 1)+"\r\n", 101, "headers"),
		answered("101 and close", strings.Replace(harness.RightAnswer, "n: Upgrade", "n: close", 1)+"\r\n", 101, "headers"),
		answered("101 without Accept", strings.Replace(harness.RightAnswer, "ACCEPT", "", 1)+"\r\n", 101, "headers"),
		answered("101 with a wrong Accept", strings.Replace(harness.RightAnswer, "ACCEPT", harness.Canary, 1)+"\r\n", 101, "headers"),
		answered("unoffered extension", harness.RightAnswer+harness.Deflated+"\r\n\r\n", 101, "extension"),
		answered("unoffered, gorilla chokes", harness.RightAnswer+"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n", 101, "compression"),
		answered("unknown extension", harness.RightAnswer+"Sec-WebSocket-Extensions: , x-"+harness.Canary+"\r\n\r\n", 101, "extension"),
		answered("unoffered subprotocol", harness.RightAnswer+"Sec-WebSocket-Protocol: x-"+harness.Canary+"\r\n\r\n", 101, "subprotocol"),
		answered("junk", "\x00\x01\x02 "+harness.Canary+" \xff\r\n\r\n", 0, "not HTTP"),
		answered("a line without end", strings.Repeat(harness.Canary, 3), -1, ""),
		answered("another protocol", "SSH-2.0-"+harness.Canary+"\r\n", 0, "not HTTP"),
		answered("bad version", "HTTP/x.y 101 "+harness.Canary+"\r\n\r\n", 0, "not HTTP"),
		answered("bad status", "HTTP/1.1 "+harness.Canary+" OK\r\n\r\n", 0, "not HTTP"),
		answered("negative status", "HTTP/1.1 -101 "+harness.Canary+"\r\n\r\n", 0, "not HTTP"),
		answered("bad header line", "HTTP/1.1 200 OK\r\n"+harness.Canary+"\r\n\r\n", 0, "not HTTP"),
		answered("bad header name", "HTTP/1.1 200 OK\r\nc4n 4ry: x\r\n\r\n", 200, ""),
		answered("bad length", "HTTP/1.1 200 OK\r\nContent-Length: "+harness.Canary+"\r\n\r\n", 0, "not HTTP"),
		answered("bad encoding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: "+harness.Canary+"\r\n\r\n", 0, "not HTTP"),
		answered("closed at once", "", -1, ""), answered("closed in the status line", "HTTP/1.1 10", -1, ""),
		answered("closed in a header", "HTTP/1.1 101 Switching Protocols\r\nUpgr", -1, ""),
		answered("closed before the end", strings.TrimSuffix(harness.RightAnswer, "\r\n"), -1, ""),
		{name: "echo", do: func(c *cell, _ target) {
			c.serve(func(rc *harness.RawConn) { rc.Say(rc.Req.RequestURI + " " + rc.Req.Header.Get("Cookie") + "\r\n\r\n") })
		}, is: func(err error) bool { var he *wsshard.HandshakeError; return errors.As(err, &he) }},
	}},
	{no: 11, name: "accepts_then_closes", kind: dialFault, strikes: []strike{
		{name: "killed", do: func(c *cell, _ target) { c.Srv.OnOpen(killPeer) }, is: harness.Is(io.ErrUnexpectedEOF), check: unhurried},
		{name: "1008", do: func(c *cell, _ target) { c.Srv.OnOpen(func(p *wstest.Peer) { p.Close(1008, "") }) }, is: closedWith(1008, false), check: unhurried},
		{name: "at the first request", do: func(c *cell, _ target) {
			c.serve(func(rc *harness.RawConn) { rc.Say(rc.Switching()); harness.ReadRaw(rc.Br); harness.ReadRaw(rc.Br) })
		}, is: harness.Is(io.ErrUnexpectedEOF), check: unhurried},
	}},
	{no: 20, name: "frame_with_the_101", kind: dialFault, strikes: []strike{{is: closedWith(1001, false), do: func(c *cell, _ target) {
		c.serve(func(rc *harness.RawConn) {
			rc.Say(rc.Switching() + harness.RawBytes(harness.Fin|harness.OpText, "x:1"))
			go rc.Listen()
			nap(500 * time.Millisecond)
			rc.Say(harness.RawBytes(harness.Fin|harness.OpText, "x:2") + harness.RawBytes(harness.Fin|harness.OpClose, harness.ClosePayload(1001, "")))
			rc.Gone()
		})
	}, check: func(c *cell) {
		c.Mu.Lock()
		defer c.Mu.Unlock()
		if got := fmt.Sprint(c.Got["x"]); c.phase() != switching && !strings.HasPrefix(got, "[1 2 1 2") {
			c.T.Errorf("delivered %s", got)
		}
	}}}},
	{no: 49, name: "environment", kind: environment},
}

func killPeer(p *wstest.Peer) { p.Kill() }

// closedWith says whether err is a close frame with this code: the server's, or ours.
func closedWith(code int, local bool) func(err error) bool {
	return func(err error) bool {
		var ce *wsshard.CloseError
		return errors.As(err, &ce) && ce.Code == code && ce.Local == local
	}
}

// waits30 checks that Retry-After is kept, and not for much longer.
func waits30(c *cell) {
	if c.phase() == switching {
		c.heal()
		begin := time.Now()
		if err := c.switchover(); err != nil {
			c.T.Errorf("the next switchover: %v", err)
		}
		if d := time.Since(begin); d < 29*time.Second || d > 36*time.Second {
			c.T.Errorf("it took %v", d)
		}
		return
	}
	at := c.dialTimes()
	if d := at[len(at)-1].Sub(at[len(at)-2]); d < 30*time.Second || d > 34*time.Second {
		c.T.Errorf("dialled again after %v", d)
	}
}

// unhurried checks that what fails for good is not tried in a tight loop.
func unhurried(c *cell) {
	if c.phase() == switching {
		return
	}
	before := len(c.dialTimes())
	nap(time.Minute)
	if n := len(c.dialTimes()) - before; n < 2 || n > 20 {
		c.T.Errorf("%d dials in a minute", n)
	}
}
