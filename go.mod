module github.com/seed-829c304d/wsshard

go 1.25.0

require (
	github.com/cenkalti/backoff/v4 v4.3.0
	github.com/gorilla/websocket v1.5.3
	golang.org/x/net v0.58.0
)

require golang.org/x/text v0.41.0 // indirect
