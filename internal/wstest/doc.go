// Package wstest is an in-memory network and a scripted WebSocket server for tests of a WebSocket client. Everything
// in it waits on condition variables, channels and timers only, so that a testing/synctest bubble sees each wait as
// durably blocking: fake time moves, and a goroutine left behind ends the test. It works outside bubbles too.
//
//	net.go       how is a connection dialled, refused or left hanging?
//	listener.go  who accepts it?
//	conn.go      what can be done to one end of it, faults included?
//	stream.go    when does what one end wrote reach the other?
//	server.go    which WebSocket connections does the server have; when is it down?
//	peer.go      what was said on one of them?
//	feed.go      which topics has the client subscribed to, as the server sees it?
//
// Make all of it inside the bubble, and call nothing of it from outside.
package wstest
