package acceptance

import (
	"context"
	"log/slog"
	"sync"
)

// logbook is a slog.Handler that keeps what it is told.
type logbook struct {
	with []slog.Attr
	book *struct {
		mu    sync.Mutex
		lines []logLine
	}
}

type logLine struct {
	level slog.Level
	msg   string
	attrs map[string]any
}

// text is an attribute as a string; "" when there is none.
func (l logLine) text(key string) string {
	s, _ := l.attrs[key].(string)
	return s
}

func newLogbook() *logbook {
	return &logbook{book: new(struct {
		mu    sync.Mutex
		lines []logLine
	})}
}

func (b *logbook) Enabled(context.Context, slog.Level) bool { return true }
func (b *logbook) WithGroup(string) slog.Handler            { return b }

func (b *logbook) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &logbook{with: append(b.with[:len(b.with):len(b.with)], attrs...), book: b.book}
}

func (b *logbook) Handle(_ context.Context, r slog.Record) error {
	line := logLine{level: r.Level, msg: r.Message, attrs: make(map[string]any)}
	for _, a := range b.with {
		line.attrs[a.Key] = a.Value.Resolve().Any()
	}
	r.Attrs(func(a slog.Attr) bool {
		line.attrs[a.Key] = a.Value.Resolve().Any()
		return true
	})
	b.book.mu.Lock()
	defer b.book.mu.Unlock()
	b.book.lines = append(b.book.lines, line)
	return nil
}

// from returns the lines of a level or above.
func (b *logbook) from(level slog.Level) (found []logLine) {
	b.book.mu.Lock()
	defer b.book.mu.Unlock()
	for _, l := range b.book.lines {
		if l.level >= level {
			found = append(found, l)
		}
	}
	return found
}
