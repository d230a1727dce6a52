package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/gorilla/websocket"
)

// standIn speaks the venue's side of the market channel, strictly: what the venue would ignore or refuse is an error here.
type standIn struct {
	t   *testing.T
	url string

	mu      sync.Mutex // protects following fields, and the order of what is written
	limits  limits
	conns   []*standInConn // in the order they were opened; dead ones stay
	errors  []string
	pings   int
	largest int // request
}

type standInConn struct {
	ws     *websocket.Conn
	topics map[string]bool
	first  []string // the keys of the first request
	silent bool
	dead   bool
}

func newStandIn(t *testing.T, l limits) *standIn {
	s := &standIn{t: t, limits: l}
	srv := httptest.NewServer(s)
	t.Cleanup(func() {
		s.killAll()
		srv.Close()
	})
	s.url = "ws" + strings.TrimPrefix(srv.URL, "http") + "/ws/market"
	return s
}

func (s *standIn) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/ws/market" {
		http.NotFound(w, r)
		return
	}
	up := websocket.Upgrader{}
	ws, err := up.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	c := &standInConn{ws: ws, topics: make(map[string]bool)}
	s.mu.Lock()
	s.conns = append(s.conns, c)
	s.mu.Unlock()
	for {
		_, data, err := ws.ReadMessage()
		s.mu.Lock()
		if err != nil {
			c.dead = true
			s.mu.Unlock()
			ws.Close()
			return
		}
		s.heardLocked(c, data)
		s.mu.Unlock()
	}
}

// heardLocked takes one message of a client.
func (s *standIn) heardLocked(c *standInConn, data []byte) {
	if string(data) == "PING" {
		s.pings++
		s.writeLocked(c, "PONG")
		return
	}
	var keys map[string]any
	var req request
	strict := json.NewDecoder(bytes.NewReader(data))
	strict.DisallowUnknownFields()
	if json.Unmarshal(data, &keys) != nil || strict.Decode(&req) != nil {
		s.refuseLocked(c, data, "not a request")
		return
	}
	switch shape := strings.Join(slices.Sorted(maps.Keys(keys)), ","); {
	case len(req.Assets) == 0:
		s.refuseLocked(c, data, "no assets")
		return
	case c.first == nil && (shape != "assets_ids,type" || req.Type != "market"):
		s.refuseLocked(c, data, "a wrong first request")
		return
	case c.first == nil:
		c.first = req.Assets
	case shape != "assets_ids,operation" || req.Operation != "subscribe" && req.Operation != "unsubscribe":
		s.refuseLocked(c, data, "a wrong later request")
		return
	}
	s.largest = max(s.largest, len(req.Assets))
	var books []string
	for _, asset := range req.Assets {
		if has := c.topics[asset]; has == (req.Operation != "unsubscribe") {
			s.refuseLocked(c, data, asset+" twice")
		}
		if req.Operation == "unsubscribe" {
			delete(c.topics, asset)
			continue
		}
		c.topics[asset] = true
		books = append(books, book(asset, "0.40", "0.60"))
	}
	if len(c.topics) > s.limits.perConnection {
		s.refuseLocked(c, data, "too many assets on a connection")
	}
	if req.Operation != "unsubscribe" {
		s.writeLocked(c, "["+strings.Join(books, ",")+"]")
	}
}

func (s *standIn) refuseLocked(c *standInConn, data []byte, why string) {
	s.errors = append(s.errors, fmt.Sprintf("%s: %.200s", why, data))
	s.writeLocked(c, "INVALID OPERATION")
}

func (s *standIn) writeLocked(c *standInConn, text string) {
	if !c.silent || text == "PONG" {
		_ = c.ws.WriteMessage(websocket.TextMessage, []byte(text))
	}
}

// publish sends a message to every connection that has the asset.
func (s *standIn) publish(asset, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		if !c.dead && c.topics[asset] {
			s.writeLocked(c, text)
		}
	}
}

// killAll cuts every connection, without a close frame.
func (s *standIn) killAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		c.dead = true
		c.ws.NetConn().Close()
	}
}

// silence keeps data from the connections that are open now; pings are still answered.
func (s *standIn) silence() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		c.silent = true
	}
}

// table counts on how many open connections each asset is, silent ones not counted.
func (s *standIn) table() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := make(map[string]int)
	for _, c := range s.conns {
		for asset := range c.topics {
			if !c.dead && !c.silent {
				t[asset]++
			}
		}
	}
	return t
}

// state returns how many connections are open, how many there were, and what was wrong.
func (s *standIn) state() (open, ever, pings, largest int, errors []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		if !c.dead {
			open++
		}
	}
	return open, len(s.conns), s.pings, s.largest, slices.Clone(s.errors)
}

// What the venue sends, in its own words.

func book(asset, bid, ask string) string {
	return fmt.Sprintf(`{"market":"0xbd31","asset_id":%q,"timestamp":"1757908892351","hash":"0x0a","bids":[{"price":"0.01","size":"500"},{"price":%q,"size":"30"}],`+
		`"asks":[{"price":"0.99","size":"500"},{"price":%q,"size":"25.5"}],"tick_size":"0.01","event_type":"book","last_trade_price":"0.500"}`, asset, bid, ask)
}

func priceChanges(yes, no, bid, ask string) string {
	return fmt.Sprintf(`{"market":"0x5f65","price_changes":[`+
		`{"asset_id":%q,"price":"0.5","size":"200","side":"BUY","hash":"56621a12","best_bid":%q,"best_ask":%q},`+
		`{"asset_id":%q,"price":"0.5","size":"0","side":"SELL","hash":"1895759e","best_bid":"0.3","best_ask":"0.5"}],`+
		`"timestamp":"1757908892351","event_type":"price_change"}`, yes, bid, ask, no)
}

func trade(asset, price string) string {
	return fmt.Sprintf(`{"asset_id":%q,"event_type":"last_trade_price","fee_rate_bps":"0","market":"0x6a67","price":%q,"side":"BUY",`+
		`"size":"219.217767","timestamp":"1750428146322","transaction_hash":"0xeeef"}`, asset, price)
}

func tickSize(asset, tick string) string {
	return fmt.Sprintf(`{"event_type":"tick_size_change","asset_id":%q,"market":"0xbd31","old_tick_size":"0.01","new_tick_size":%q,"timestamp":"100000000"}`, asset, tick)
}
