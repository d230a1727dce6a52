//go:build !unix

package wsconn

import "net"

func newAhead(net.Conn) *ahead { return nil }
