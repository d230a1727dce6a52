package wstest

import (
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
)

const (
	// sendTimeout bounds Send and SendBinary, the wait for other senders included.
	sendTimeout = 5 * time.Second
	// controlTimeout bounds the writing of a control frame, and the wait for the reply to a close frame.
	controlTimeout = time.Second
)

// The kinds of Frame.
const (
	KindData  = "data"
	KindPing  = "ping"
	KindPong  = "pong"
	KindClose = "close"
)

// Frame is one entry of Peer.FrameLog. Fragments of a data message are one entry.
type Frame struct {
	At   time.Time
	Kind string
	Text string // of a close frame the code, then a space and the reason if there is one
}

// Peer is the server end of one WebSocket.
type Peer struct {
	server  *Server
	ws      *websocket.Conn
	net     *Conn
	request *http.Request
	index   int

	turn      chan struct{} // holds a token while someone writes data; a mutex would stop a bubble's clock
	gone      chan struct{} // closed when the read loop has ended
	down      atomic.Bool   // no longer in Server.Live
	silent    atomic.Bool
	pings     atomic.Int64
	closeCode atomic.Int64

	mu      sync.Mutex // protects the following
	frames  []Frame
	got     []string
	closing *time.Timer // closes the socket when the client leaves our close frame unanswered
}

// Index returns the i of Server.Conn(i).
func (p *Peer) Index() int { return p.index }

// Request returns the handshake request.
func (p *Peer) Request() *http.Request { return p.request }

// Conn returns the WebSocket itself. Do not read from it, nor write data while Send may be called; control frames may
// be written at any time.
func (p *Peer) Conn() *websocket.Conn { return p.ws }

// Net returns the server end of the connection, a *wstest.Conn.
func (p *Peer) Net() net.Conn { return p.net }

// Send writes a text message, and waits at most 5 s for room in the buffer. It may be called from several goroutines.
// An error is not reported to the test; after a timeout nothing can be written to this peer any more.
func (p *Peer) Send(text string) error { return p.write(websocket.TextMessage, []byte(text)) }

// SendBinary is Send for a binary message.
func (p *Peer) SendBinary(b []byte) error { return p.write(websocket.BinaryMessage, b) }

// Ping writes a ping frame, and waits at most 1 s.
func (p *Peer) Ping(payload string) error {
	return p.ws.WriteControl(websocket.PingMessage, []byte(payload), time.Now().Add(controlTimeout))
}

// Got returns the data messages received since the last call, in order.
func (p *Peer) Got() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	got := p.got
	p.got = nil
	return got
}

// FrameLog returns every frame ever received, in order.
func (p *Peer) FrameLog() []Frame {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]Frame(nil), p.frames...)
}

// Times returns when each frame of FrameLog arrived.
func (p *Peer) Times() []time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	times := make([]time.Time, len(p.frames))
	for i, f := range p.frames {
		times[i] = f.At
	}
	return times
}

// Pings returns how many ping frames were received, answered or not.
func (p *Peer) Pings() int { return int(p.pings.Load()) }

// Silent stops the answering of pings, or takes it up again. It does not make up for the pings of a silent time.
func (p *Peer) Silent(on bool) { p.silent.Store(on) }

// Close writes a close frame and returns; the socket is closed after the client's reply, or 1 s. Any code is sent as
// it is, except 1005, which sends an empty frame.
func (p *Peer) Close(code int, text string) {
	p.mu.Lock()
	if p.closing == nil {
		p.closing = time.AfterFunc(controlTimeout, p.Kill)
	}
	p.mu.Unlock()
	// The client's reply ends the read loop, which stops the timer. If the loop had ended already, the timer closes a
	// closed connection.
	p.control(websocket.CloseMessage, websocket.FormatCloseMessage(code, text))
}

// Kill closes the connection without a close frame. What was sent still arrives, then EOF.
func (p *Peer) Kill() {
	p.server.drop(p)
	p.net.Close()
}

// Reset breaks the connection at both ends at once: see Conn.Reset.
func (p *Peer) Reset() {
	p.server.drop(p)
	p.net.Reset()
}

// Gone is closed when nothing will be received from this peer any more.
func (p *Peer) Gone() <-chan struct{} { return p.gone }

// CloseCode returns the code of the close frame the client sent, 1005 if that was empty, 1006 if the connection ended
// without one, and 0 as long as neither has happened.
func (p *Peer) CloseCode() int { return int(p.closeCode.Load()) }

func newPeer(s *Server, ws *websocket.Conn, req *http.Request) *Peer {
	p := &Peer{
		server:  s,
		ws:      ws,
		net:     ws.NetConn().(*Conn),
		request: req,
		turn:    make(chan struct{}, 1),
		gone:    make(chan struct{}),
	}
	ws.SetPingHandler(func(payload string) error {
		p.record(KindPing, payload)
		p.pings.Add(1)
		if !p.silent.Load() {
			p.control(websocket.PongMessage, []byte(payload))
		}
		return nil
	})
	ws.SetPongHandler(func(payload string) error {
		p.record(KindPong, payload)
		return nil
	})
	ws.SetCloseHandler(func(code int, reason string) error {
		text := strconv.Itoa(code)
		if reason != "" {
			text += " " + reason
		}
		p.record(KindClose, text)
		p.closeCode.Store(int64(code))
		p.control(websocket.CloseMessage, websocket.FormatCloseMessage(code, ""))
		return nil
	})
	return p
}

// read is the read loop.
func (p *Peer) read() {
	if open := p.server.opener(); open != nil {
		open(p)
	}
	for {
		typ, data, err := p.ws.ReadMessage()
		if err != nil {
			return
		}
		p.record(KindData, string(data))
		if handle := p.server.handler(); handle != nil {
			handle(p, typ, data)
		}
	}
}

// end runs once the read loop has, or instead of it.
func (p *Peer) end() {
	p.mu.Lock()
	if p.closing != nil {
		p.closing.Stop()
	}
	p.mu.Unlock()
	p.closeCode.CompareAndSwap(0, websocket.CloseAbnormalClosure)
	p.Kill()
	close(p.gone)
}

func (p *Peer) record(kind, text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.frames = append(p.frames, Frame{At: time.Now(), Kind: kind, Text: text})
	if kind == KindData {
		p.got = append(p.got, text)
	}
}

// control writes a control frame whose failure the read loop will notice, or nobody needs to.
func (p *Peer) control(typ int, payload []byte) {
	p.ws.WriteControl(typ, payload, time.Now().Add(controlTimeout))
}

func (p *Peer) write(typ int, b []byte) error {
	deadline := time.Now().Add(sendTimeout)
	if err := p.takeTurn(deadline); err != nil {
		return err
	}
	defer func() { <-p.turn }()
	p.ws.SetWriteDeadline(deadline)
	return p.ws.WriteMessage(typ, b)
}

func (p *Peer) takeTurn(deadline time.Time) error {
	select {
	case p.turn <- struct{}{}:
		return nil
	default:
	}
	timeout := time.NewTimer(time.Until(deadline))
	defer timeout.Stop()
	select {
	case p.turn <- struct{}{}:
		return nil
	case <-p.gone:
		return net.ErrClosed
	case <-timeout.C:
		return os.ErrDeadlineExceeded
	}
}
