package main

import (
	"cmp"
	"slices"
	"strconv"
	"sync"
)

// This file answers: what is known of each asset?

// board holds the last of everything. Shards write to it in parallel.
type board struct {
	mu     sync.Mutex // protects following fields
	assets map[string]*quote
	events int
	trades int
}

// quote is one asset's row.
type quote struct {
	asset          string
	bid, ask, last string
	tick           string
	book           bool // a snapshot has come
	events         int
}

// counts of a board.
type counts struct{ assets, books, events, trades int }

// take notes what one message said.
func (b *board) take(evs []event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, ev := range evs {
		b.events++
		switch ev.Type {
		case "book":
			q := b.quoteLocked(ev.Asset)
			q.book = true
			q.bid, q.ask = best(ev.Bids, 1), best(ev.Asks, -1)
		case "price_change":
			for _, ch := range ev.Changes {
				q := b.quoteLocked(ch.Asset)
				q.bid, q.ask = cmp.Or(ch.BestBid, q.bid), cmp.Or(ch.BestAsk, q.ask)
			}
		case "last_trade_price":
			b.trades++
			b.quoteLocked(ev.Asset).last = ev.Price
		case "tick_size_change":
			b.quoteLocked(ev.Asset).tick = ev.Tick
		}
	}
}

func (b *board) quoteLocked(asset string) *quote {
	q := b.assets[asset]
	if q == nil {
		q = &quote{asset: asset}
		b.assets[asset] = q
	}
	q.events++
	return q
}

// best is the price of the highest level, with -1 of the lowest. The order of levels is not promised.
func best(levels []level, sign float64) string {
	price, top := "", 0.0
	for _, l := range levels {
		if p, err := strconv.ParseFloat(l.Price, 64); err == nil && (price == "" || sign*p > sign*top) {
			price, top = l.Price, p
		}
	}
	return price
}

func (b *board) counts() counts {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := counts{assets: len(b.assets), events: b.events, trades: b.trades}
	for _, q := range b.assets {
		if q.book {
			n.books++
		}
	}
	return n
}

// busiest returns copies of the rows with the most events.
func (b *board) busiest(n int) []quote {
	b.mu.Lock()
	defer b.mu.Unlock()
	rows := make([]quote, 0, len(b.assets))
	for _, q := range b.assets {
		rows = append(rows, *q)
	}
	slices.SortFunc(rows, func(x, y quote) int {
		return cmp.Or(cmp.Compare(y.events, x.events), cmp.Compare(x.asset, y.asset))
	})
	return rows[:min(n, len(rows))]
}
