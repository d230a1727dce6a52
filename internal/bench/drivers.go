package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"time"

	"github.com/coder/websocket"
	"github.com/gobwas/ws"
	gorilla "github.com/gorilla/websocket"
	"github.com/lxzan/gws"
)

// This file answers: who is measured beside us?

// maxDials is how many connections are opened at a time, by everybody.
const maxDials = 64

// job is what a driver has to do: keep one connection for each consumer, write the subscriptions on it, deliver.
type job struct {
	spec
	tls       *tls.Config
	consumers []*consumer
	topics    []string // Subs for each consumer
}

// driver opens job's connections, and returns when they deliver or soon will. They live until the process ends.
type driver func(j *job) error

// drivers by their names.
var drivers = map[string]driver{
	"naive":      byHand(dialNaive),
	"reuse":      byHand(dialReuse),
	"gws":        byHand(dialGWS),
	"coder":      byHand(dialCoder),
	"gobwas":     byHand(dialGobwas),
	"wsshard":    func(j *job) error { return runWsshard(j, false) },
	"wsshard-ll": func(j *job) error { return runWsshard(j, true) },
}

// link is an open connection of a driver.
type link interface {
	send(text string) error
	read() error // delivers until the connection fails
}

// byHand makes a driver of a dial function, as one would by hand: a goroutine for each connection, which dials when it is its
// turn, subscribes and reads.
func byHand(dial func(j *job, c *consumer) (link, error)) driver {
	return func(j *job) error {
		turns := make(chan struct{}, maxDials)
		open := func(c *consumer) (l link, err error) {
			turns <- struct{}{}
			defer func() { <-turns }()
			if l, err = dial(j, c); err != nil {
				return nil, err
			}
			for i := 0; err == nil && i < j.Subs; i++ {
				err = l.send("sub")
			}
			return l, err
		}
		opened := make(chan error, len(j.consumers))
		for _, c := range j.consumers {
			go func() {
				l, err := open(c)
				opened <- err
				for err == nil {
					_ = l.read()
					if j.Mode != "restore" {
						return
					}
					l, err = open(c)
				}
			}()
		}
		var failed error
		for range j.consumers {
			failed = errors.Join(failed, <-opened)
		}
		return failed
	}
}

// gorillaLink is gorilla/websocket, with two ways to read.
type gorillaLink struct {
	conn *gorilla.Conn
	loop func(*gorilla.Conn, *consumer) error
	c    *consumer
}

func (l *gorillaLink) send(text string) error {
	return l.conn.WriteMessage(gorilla.TextMessage, []byte(text))
}
func (l *gorillaLink) read() error { return l.loop(l.conn, l.c) }

func dialGorilla(j *job, c *consumer, loop func(*gorilla.Conn, *consumer) error) (link, error) {
	d := gorilla.Dialer{TLSClientConfig: j.tls, ReadBufferSize: j.Buffer}
	conn, _, err := d.Dial(j.URL, nil)
	if err != nil {
		return nil, err
	}
	return &gorillaLink{conn, loop, c}, nil
}

// dialNaive is what people write.
func dialNaive(j *job, c *consumer) (link, error) {
	return dialGorilla(j, c, func(conn *gorilla.Conn, c *consumer) error {
		for {
			_, msg, err := conn.ReadMessage()
			if err != nil {
				return err
			}
			c.message(msg)
		}
	})
}

// dialReuse is what one writes who cares.
func dialReuse(j *job, c *consumer) (link, error) {
	return dialGorilla(j, c, func(conn *gorilla.Conn, c *consumer) error {
		buf := make([]byte, 0, 512)
		for {
			_, r, err := conn.NextReader()
			if err != nil {
				return err
			}
			buf = buf[:0]
			for {
				if len(buf) == cap(buf) {
					buf = append(buf, 0)[:len(buf)]
				}
				n, err := r.Read(buf[len(buf):cap(buf)])
				buf = buf[:len(buf)+n]
				if err == io.EOF {
					break
				}
				if err != nil {
					return err
				}
			}
			c.message(buf)
		}
	})
}

// gwsLink is lxzan/gws, which calls back.
type gwsLink struct {
	gws.BuiltinEventHandler
	conn *gws.Conn
	c    *consumer
}

func (l *gwsLink) OnMessage(_ *gws.Conn, msg *gws.Message) {
	l.c.message(msg.Bytes())
	_ = msg.Close()
}
func (l *gwsLink) OnPing(conn *gws.Conn, payload []byte) { _ = conn.WritePong(payload) }
func (l *gwsLink) send(text string) error                { return l.conn.WriteString(text) }
func (l *gwsLink) read() error {
	l.conn.ReadLoop()
	return io.EOF
}

func dialGWS(j *job, c *consumer) (link, error) {
	l := &gwsLink{c: c}
	conn, _, err := gws.NewClient(l, &gws.ClientOption{Addr: j.URL, TlsConfig: j.tls, ReadBufferSize: j.Buffer})
	l.conn = conn
	return l, err
}

// coderLink is coder/websocket.
type coderLink struct {
	conn *websocket.Conn
	c    *consumer
}

func (l *coderLink) send(text string) error {
	return l.conn.Write(context.Background(), websocket.MessageText, []byte(text))
}

func (l *coderLink) read() error {
	for {
		_, msg, err := l.conn.Read(context.Background())
		if err != nil {
			return err
		}
		l.c.message(msg)
	}
}

func dialCoder(j *job, c *consumer) (link, error) {
	conn, _, err := websocket.Dial(context.Background(), j.URL, &websocket.DialOptions{HTTPClient: j.httpClient()})
	if err != nil {
		return nil, err
	}
	conn.SetReadLimit(-1)
	return &coderLink{conn, c}, nil
}

// gobwasLink is gobwas/ws at its lowest level: headers parsed, payloads read into one buffer.
type gobwasLink struct {
	conn net.Conn
	br   *bufio.Reader
	c    *consumer
}

func (l *gobwasLink) send(text string) error {
	_ = l.conn.SetWriteDeadline(time.Now().Add(5 * time.Second))
	return ws.WriteFrame(l.conn, ws.MaskFrameInPlace(ws.NewTextFrame([]byte(text))))
}

func (l *gobwasLink) read() error {
	var buf []byte
	for {
		h, err := ws.ReadHeader(l.br)
		if err != nil {
			return err
		}
		if int(h.Length) > cap(buf) {
			buf = make([]byte, h.Length)
		}
		buf = buf[:h.Length]
		if _, err := io.ReadFull(l.br, buf); err != nil {
			return err
		}
		if h.OpCode == ws.OpText && h.Fin { // this server sends nothing else
			l.c.message(buf)
		}
	}
}

func dialGobwas(j *job, c *consumer) (link, error) {
	d := ws.Dialer{TLSConfig: j.tls}
	conn, br, _, err := d.Dial(context.Background(), j.URL)
	if err != nil {
		return nil, err
	}
	if br != nil { // bytes that came with the handshake; this server waits for a subscription
		ws.PutReader(br)
	}
	return &gobwasLink{conn, bufio.NewReaderSize(conn, j.Buffer), c}, nil
}
