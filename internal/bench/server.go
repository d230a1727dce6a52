package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// This file answers: who sends?

// place is where the server listens.
type place struct {
	URL     string // of the feed
	Control string // POST here: see feedServer
	Cert    []byte // to be trusted
}

// feedServer sends frames that were encoded beforehand to whoever subscribes. A subscription is any text message. /start
// begins the flood or the paced stream on all connections; /reset resets every connection.
type feedServer struct {
	s     spec
	ring  *ring
	begin chan struct{} // closed by /start

	mu    sync.Mutex // protects following fields
	conns map[net.Conn]struct{}
}

// serve runs a server until orders end.
func serve(s spec, orders io.Reader, answers io.Writer) error {
	f := &feedServer{s: s, ring: newRing(max(s.Size, minSize)), begin: make(chan struct{}), conns: make(map[net.Conn]struct{})}
	feed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	control, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	at := place{URL: "ws://" + feed.Addr().String() + "/", Control: "http://" + control.Addr().String()}
	if s.TLS {
		cert, err := selfSigned()
		if err != nil {
			return err
		}
		at.URL, at.Cert = "wss://"+feed.Addr().String()+"/", cert.Certificate[0]
		feed = tls.NewListener(feed, &tls.Config{Certificates: []tls.Certificate{cert}})
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /start", func(http.ResponseWriter, *http.Request) { close(f.begin) })
	mux.HandleFunc("POST /reset", func(http.ResponseWriter, *http.Request) { f.reset() })
	quiet := log.New(io.Discard, "", 0)
	go (&http.Server{Handler: mux, ErrorLog: quiet}).Serve(control)
	go (&http.Server{Handler: f, ErrorLog: quiet}).Serve(feed)
	if err := json.NewEncoder(answers).Encode(at); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, orders)
	return err
}

// ServeHTTP is one connection's life. gorilla takes the handshake and what the client sends; what is sent goes straight to
// the socket, in writes of whole frames.
func (f *feedServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	up := websocket.Upgrader{ReadBufferSize: 512, WriteBufferSize: 512}
	ws, err := up.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	conn := ws.NetConn()
	f.mu.Lock()
	f.conns[conn] = struct{}{}
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		delete(f.conns, conn)
		f.mu.Unlock()
		conn.Close()
	}()
	for first := true; ; first = false {
		if _, _, err := ws.NextReader(); err != nil { // it skips what is left of the message before
			return
		}
		switch {
		case f.s.PerSub > 0:
			conn.Write(f.ring.frames[:f.s.PerSub*f.ring.size])
		case first:
			go f.stream(conn)
		}
	}
}

// stream sends what the spec asks for.
func (f *feedServer) stream(conn net.Conn) {
	<-f.begin
	if f.s.Rate > 0 {
		f.paced(conn)
		return
	}
	some := f.s.Batch
	if some == 0 {
		some = f.ring.len()
	}
	for sent := 0; sent < f.s.Messages; {
		at := sent % f.ring.len()
		n := min(some, f.ring.len()-at, f.s.Messages-sent)
		if _, err := conn.Write(f.ring.frames[at*f.ring.size : (at+n)*f.ring.size]); err != nil {
			return
		}
		sent += n
	}
}

// paced sends Rate messages a second, Batch of them in one write, with the time in each.
func (f *feedServer) paced(conn net.Conn) {
	batch := max(1, f.s.Batch)
	frames := append([]byte(nil), f.ring.frames[:batch*f.ring.size]...)
	every := time.Duration(float64(batch) / f.s.Rate * float64(time.Second))
	var phase [1]byte
	_, _ = rand.Read(phase[:])
	next := time.Now().Add(every * time.Duration(phase[0]) / 256)
	for sent := 0; sent < f.s.Messages; sent += batch {
		time.Sleep(time.Until(next))
		next = next.Add(every)
		f.ring.stamp(frames, batch, time.Now())
		if _, err := conn.Write(frames); err != nil {
			return
		}
	}
}

func (f *feedServer) reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for conn := range f.conns {
		if t, ok := conn.(*tls.Conn); ok {
			conn = t.NetConn()
		}
		conn.(*net.TCPConn).SetLinger(0)
		conn.Close()
	}
}

func selfSigned() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}
