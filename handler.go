package wsshard

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
)

// This file answers: what does the application implement?

// A Handler is the application's side of the protocol. S names one subscription: a string, or any comparable struct such
// as {Channel, Symbol}. New infers it.
//
// For one shard OnMessage is never called concurrently and always in order: all messages of one connection, then all of
// the next, during a hot switchover too. Shards run in parallel, and every other method may be called beside OnMessage and
// beside itself for another connection. No lock is held during a call, so every ShardManager method may be called inside
// one; Stop, Sync and HotSwitchover do not wait there (ErrInCallback).
//
// Key what belongs to a connection by ShardID and Generation: in a switchover OnConnect of the next connection comes before
// OnDisconnect of the last one, and a connection that never came to deliver gets its OnDisconnect beside OnMessage of the
// live one.
//
// A panic in any method is survived, counted in Metrics.HandlerPanics and logged with its stack; of a method that goes on
// panicking the next ones are logged by their count, once a second.
type Handler[S comparable] interface {
	// URL returns the address of the next dial, ws:// or wss://. A user:password@ in it becomes a Basic Authorization header,
	// unless the application sets that header itself. It is called before every attempt, so it may carry a fresh
	// token; and again, for the same reason, when that attempt had to wait for the gate (a budget, Retry-After, the circuit
	// breaker). An error is a failed attempt.
	URL(ctx context.Context, st ConnectionState) (string, error)

	// SubscriptionMessage encodes one request, first time or replay, of at most Config.Subscribe.MaxPerMessage topics.
	// A Message whose Data is nil sends nothing and counts as done; one that is empty is sent. On an error the request is halved until the topic that
	// cannot be encoded is found; that topic fails alone.
	SubscriptionMessage(req Request[S]) (Message, error)

	// OnMessage receives one message. While it runs the connection is not read: order is kept and the peer feels
	// back-pressure. Time spent here counts for no deadline. ctx ends when the connection has delivered its last message.
	OnMessage(ctx context.Context, msg Message, st ConnectionState)
}

// Request is one subscribe, unsubscribe or resubscribe message to be encoded.
type Request[S comparable] struct {
	ID    uint64 // never reused in this manager: use it as the protocol's request id, and Ack.Request answers all of it
	Subs  []S    // oldest first; valid during the call
	First bool   // the first request of this connection
	State ConnectionState
}

// Optional capabilities of a Handler. New looks for each of them once.
type (
	// InitialSubscriber is asked by Start for the subscriptions to begin with.
	InitialSubscriber[S comparable] interface{ Subscriptions() []S }

	// ConnectHandler says what to send first on each new connection, before the subscriptions. An error ends the
	// connection. ctx ends with the connection.
	ConnectHandler interface {
		OnConnect(ctx context.Context, st ConnectionState) ([]Message, error)
	}

	// Authenticator is a login that must read replies before anything else is sent. What it reads goes nowhere else. It
	// runs within Config.Connection.ConnectTimeout; an error is a failed attempt. nil means that the connection is open:
	// OnDisconnect will hear of it, and OnConnect before that unless it came too late.
	Authenticator interface {
		Login(ctx context.Context, conn LoginConn, st ConnectionState) error
	}

	// DisconnectHandler hears once of every connection that was opened, after its last message, with the one true cause:
	// a *CloseError, a network error, ErrPongTimeout and the like; ErrReplaced after any switchover; ErrMaxLifetime only
	// where switchovers are disabled; ErrStopped. ctx ends when Stop gives up waiting.
	DisconnectHandler interface {
		OnDisconnect(ctx context.Context, cause error, st ConnectionState)
	}

	// ErrorHandler judges a failed attempt (a *DialError) or a lost connection (its cause) when no connection is live.
	// false parks the shard until Reconnect.
	ErrorHandler interface {
		OnError(ctx context.Context, err error, st ConnectionState) (retry bool)
	}

	// Unsubscriber encodes unsubscriptions. Without it, or with a Message whose Data is nil, the topic stays applied on its
	// connection: OnMessage may still see it, and its place is free only on the next connection.
	Unsubscriber[S comparable] interface {
		UnsubscriptionMessage(req Request[S]) (Message, error)
	}

	// Resubscriber asks for a fresh snapshot of topics that are subscribed. Without it they are unsubscribed and
	// subscribed again.
	Resubscriber[S comparable] interface {
		ResubscriptionMessage(req Request[S]) (Message, error)
	}

	// SubscriptionLimiter is used where Config.MaxSubscriptionsPerShard is 0. New asks it once.
	SubscriptionLimiter interface{ MaxSubscriptionsPerShard() int }

	// HeaderProvider computes headers before each dial: signatures, tokens. They win over Config.Connection.Header.
	HeaderProvider interface {
		ConnectionHeaders(ctx context.Context, st ConnectionState) (http.Header, error)
	}

	// PingMessenger replaces the ping frame by a message of the application. Any heartbeat answers it.
	PingMessenger interface {
		PingMessage(st ConnectionState) Message
	}

	// HeartbeatDetector tells the application's heartbeats: not data, and kept from OnMessage.
	HeartbeatDetector interface{ IsHeartbeat(msg Message) bool }

	// DataDetector tells data from the rest: a message it refuses is delivered but does not feed the data timeout.
	DataDetector interface{ IsDataMessage(msg Message) bool }

	// SequenceValidator is asked before OnMessage, and before duplicates are dropped. ResetSequenceState says that the
	// connection st begins to deliver.
	SequenceValidator[S comparable] interface {
		ValidateSequence(msg Message, st ConnectionState) SequenceValidation[S]
		ResetSequenceState(st ConnectionState)
	}

	// Acknowledger tells which topics a message confirms or rejects; ok is false for any other message. The message is
	// delivered all the same, and is not data.
	Acknowledger[S comparable] interface {
		Acknowledge(msg Message, st ConnectionState) (Ack[S], bool)
	}

	// ReadyDetector tells the message that shows the new connection to be truly live.
	ReadyDetector interface {
		IsReady(msg Message, st ConnectionState) bool
	}

	// Inspector looks once at each message, first of all, and says all that it is. It replaces HeartbeatDetector and
	// DataDetector where both are there. What it parsed is handed on as msg.Value.
	Inspector[S comparable] interface {
		Inspect(msg Message, st ConnectionState) Verdict[S]
	}

	// EventObserver hears events in order, on one goroutine of the manager. A slow one delays events, nothing else.
	EventObserver[S comparable] interface{ OnEvent(ev Event[S]) }
)

// Verdict of an Inspector. The zero value is ordinary data.
//
// The same Key on both connections of a switchover marks the same message, and the second is dropped. Give a key only to a
// message that means the same without its neighbours (a trade, a ticker), unique for the life of the subscription. A delta
// that applies to a snapshot of its own connection gets none: then the old connection's deltas and the new one's snapshot
// and deltas are all delivered, and a book is rebuilt. Nor has a message that packs several, if the server packs them as it
// likes for each connection: OnMessage then drops by itself what it has seen in other company.
type Verdict[S comparable] struct {
	Heartbeat  bool    // not data, not delivered
	NoData     bool    // delivered, does not feed the data timeout
	Switchover bool    // a server notice ("maintenance in 60 s"): replace this connection
	Reply      Message // sent at once on this connection (a heartbeat's answer); the newest 64 wait for their turn
	Key        string  // see above; empty: none
	Subs       []S     // whose data this is; read before the next call
	Value      any     // becomes msg.Value for Acknowledge, IsReady, ValidateSequence and OnMessage
}

// LoginConn is the new connection during Login. It is for one goroutine, and dead when Login has returned or a ctx given to
// it ended.
type LoginConn interface {
	Read(ctx context.Context) (Message, error)
	Write(ctx context.Context, msg Message) error
}

// MessageType says whether a message is text or binary.
type MessageType int

const (
	TextMessage MessageType = iota
	BinaryMessage
)

// String returns "text" or "binary".
func (t MessageType) String() string { return name(t, "text", "binary") }

// Message is one complete data message.
//
// Received: Data belongs to the handler, unless Config.Connection.LowLatencyMode is set: then it is valid until OnMessage
// returns. Clone what must live on; race builds overwrite it afterwards, so that a mistake shows.
//
// Sent: Data passes to the library for good. nil: there is no message; empty, but not nil: an empty message.
type Message struct {
	Type  MessageType
	Data  []byte
	Value any // set by Inspect
}

// Text returns a text message.
func Text(s string) Message { return Message{Type: TextMessage, Data: []byte(s)} }

// Binary returns a binary message; b passes to it.
func Binary(b []byte) Message { return Message{Type: BinaryMessage, Data: b} }

// JSON returns a text message with v encoded by encoding/json, or its error.
func JSON(v any) (Message, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return Message{}, err
	}
	return Message{Type: TextMessage, Data: b}, nil
}

// Clone returns a message with Data of its own. Value is shared.
func (m Message) Clone() Message {
	m.Data = slices.Clone(m.Data)
	return m
}

// String returns Data as it is. Mind credentials: a login message prints its own.
func (m Message) String() string { return string(m.Data) }

// ConnectionState says which connection a call is about. Fields may be added.
type ConnectionState struct {
	ShardID           int
	Generation        uint64 // counts a shard's opened connections from 1; before the connection is open, what it would be
	SubscriptionCount int    // as of the dial
	IsReconnect       bool   // Generation > 1
	ReconnectAttempt  int    // failed dials since the last stable connection
	Egress            string // source address or redacted proxy, "" for the default route
}

// SequenceRecovery says what to do with a message that shows a sequence gap.
type SequenceRecovery int

const (
	SequenceContinue    SequenceRecovery = iota // deliver it
	SequenceDropMessage                         // drop it, counted in Metrics.SequenceDrops
	SequenceReconnect                           // drop it and reconnect, with cause ErrSequenceGap
)

// String returns the recovery in words: "drop-message".
func (r SequenceRecovery) String() string { return name(r, "continue", "drop-message", "reconnect") }

// SequenceValidation is the answer of a SequenceValidator; the zero value is valid. Resubscribe is honoured with every
// Recovery. A topic whose resubscription is outstanding is not asked for again until an answer, valid data or
// Config.Subscribe.AckTimeout.
type SequenceValidation[S comparable] struct {
	Gap         bool
	Recovery    SequenceRecovery
	Resubscribe []S
}

// Ack says what a message answers. With Request alone it answers that whole request: confirmed when Err is nil, else
// rejected. With Request and Rejected, the rest of the request is confirmed; with Confirmed, only what is listed. With
// Request 0 it answers by topic. An answer to an older request than the topic's last is ignored.
type Ack[S comparable] struct {
	Request             uint64
	Confirmed, Rejected []S
	Err                 error // why Rejected were; may be nil
}
