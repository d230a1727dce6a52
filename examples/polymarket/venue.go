package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"time"

	"github.com/seed-829c304d/wsshard"
)

// This file answers: what does the venue say and ask for?

// venueURL is the market channel, open to anyone.
const venueURL = "wss://ws-subscriptions-clob.polymarket.com/ws/market"

// limits are what one connection bears.
type limits struct {
	perConnection int
	perRequest    int
	perSecond     int // frames, the pings among them
	ping          time.Duration
	quiet         time.Duration
}

// venueLimits were found out by those who went past them; the venue documents its ping only. Past 500 assets a connection
// gets no more data, without a word; 200 keeps a distance. Whole sets of assets in one request have ended connections. And
// connections have been seen that still answer pings but bring nothing: hence quiet.
var venueLimits = limits{perConnection: 200, perRequest: 100, perSecond: 10, ping: 10 * time.Second, quiet: time.Minute}

func (l limits) config() wsshard.Config {
	return wsshard.Config{
		MaxSubscriptionsPerShard: l.perConnection,
		Connection: wsshard.ConnectionConfig{
			Limiter: wsshard.NewConnectLimiter(5, time.Second),
		},
		Health: wsshard.HealthConfig{
			TextPing:     "PING", // answered by "PONG", the default
			PingInterval: l.ping,
			PongTimeout:  l.ping,
			DataTimeout:  l.quiet,
		},
		Subscribe: wsshard.SubscribeConfig{
			MaxPerMessage:     l.perRequest,
			MessagesPerWindow: l.perSecond,
		},
	}
}

// request is what a client sends: with Type the first time on a connection, with Operation ever after.
type request struct {
	Assets    []string `json:"assets_ids"`
	Type      string   `json:"type,omitempty"`
	Operation string   `json:"operation,omitempty"`
}

// event is what the venue sends, alone or in an array. Numbers are strings. Which fields are there depends on Type.
type event struct {
	Type    string        `json:"event_type"` // book, price_change, last_trade_price, tick_size_change; more may come
	Asset   string        `json:"asset_id"`   // of all but price_change
	Bids    []level       `json:"bids"`       // book
	Asks    []level       `json:"asks"`
	Changes []priceChange `json:"price_changes"` // price_change, of both assets of a market
	Price   string        `json:"price"`         // last_trade_price
	Size    string        `json:"size"`
	Side    string        `json:"side"`
	Tick    string        `json:"new_tick_size"` // tick_size_change
}

type level struct {
	Price string `json:"price"`
	Size  string `json:"size"`
}

// priceChange is one level's new size; "0": the level is gone.
type priceChange struct {
	Asset   string `json:"asset_id"`
	Price   string `json:"price"`
	Size    string `json:"size"`
	Side    string `json:"side"` // BUY, SELL
	BestBid string `json:"best_bid"`
	BestAsk string `json:"best_ask"`
}

var errNoEvent = errors.New("not an event")

// parseEvents reads one message. An array may be empty.
func parseEvents(data []byte) ([]event, error) {
	var evs []event
	var err error
	if data = bytes.TrimSpace(data); len(data) > 0 && data[0] == '[' {
		err = json.Unmarshal(data, &evs)
	} else {
		evs = make([]event, 1)
		err = json.Unmarshal(data, &evs[0])
	}
	if err != nil {
		return nil, err
	}
	for _, ev := range evs {
		if ev.Type == "" {
			return nil, errNoEvent
		}
	}
	return evs, nil
}

// assets names whose data the events are, with repetitions.
func assets(evs []event) []string {
	var subs []string
	for _, ev := range evs {
		if ev.Asset != "" {
			subs = append(subs, ev.Asset)
		}
		for _, ch := range ev.Changes {
			subs = append(subs, ch.Asset)
		}
	}
	return subs
}
