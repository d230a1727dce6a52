module github.com/seed-829c304d/wsshard/internal/realworld/proxies

go 1.25.0

require (
	github.com/armon/go-socks5 v0.0.0-20160902184237-e75332964ef5
	github.com/elazarl/goproxy v1.9.2
	github.com/elazarl/goproxy/ext v0.0.0-20200809112317-0581fc3aee2d
	github.com/gorilla/websocket v1.5.3
	github.com/seed-829c304d/wsshard v0.0.0-00010101000000-000000000000
	github.com/seed-829c304d/wsshard/internal/realworld/program v0.0.0-00010101000000-000000000000
	golang.org/x/sys v0.47.0
)

require (
	github.com/cenkalti/backoff/v4 v4.3.0 // indirect
	golang.org/x/net v0.58.0 // indirect
	golang.org/x/text v0.41.0 // indirect
)

replace (
	github.com/seed-829c304d/wsshard => ../../..
	github.com/seed-829c304d/wsshard/internal/realworld/program => ../program
)
