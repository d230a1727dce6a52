package wsshard

import (
	"errors"
	"io"
	"net"
	"runtime"
	"slices"
	"syscall"
)

// This file answers: what does an error of a socket speak of, on each system?
//
// Windows reports numbers of Winsock and of its kernel. Package syscall gives names like ECONNREFUSED there to numbers of its
// own invention, which no call returns, so errors.Is never finds them.

// socketFault is whom an error of a socket speaks against.
type socketFault int

const (
	socketOurs  socketFault = iota // this machine: addresses, ports or descriptors that it has not
	socketDown                     // the host, or the way to it
	socketBreak                    // a connection that was there
)

// unixErrors are errors as syscall names them; every system but Windows returns these.
var unixErrors = map[socketFault][]error{
	socketOurs: {
		syscall.EADDRNOTAVAIL, syscall.EADDRINUSE, syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.EACCES, syscall.EPERM,
	},
	socketDown:  {syscall.ECONNREFUSED, syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EHOSTDOWN, syscall.ENETDOWN, syscall.ETIMEDOUT},
	socketBreak: {syscall.ECONNRESET, syscall.EPIPE, syscall.ECONNABORTED},
}

// windowsErrors are the numbers that Windows returns: those above 10000 from Winsock, the others from its kernel.
var windowsErrors = map[socketFault][]syscall.Errno{
	socketOurs: {
		10013, // WSAEACCES
		10024, // WSAEMFILE
		10047, // WSAEAFNOSUPPORT: no IPv6 here, for instance
		10048, // WSAEADDRINUSE
		10049, // WSAEADDRNOTAVAIL
		10055, // WSAENOBUFS: ports too
		5,     // ERROR_ACCESS_DENIED
		1314,  // ERROR_PRIVILEGE_NOT_HELD
	},
	socketDown: {
		10050, // WSAENETDOWN
		10051, // WSAENETUNREACH
		10060, // WSAETIMEDOUT
		10061, // WSAECONNREFUSED
		10064, // WSAEHOSTDOWN
		10065, // WSAEHOSTUNREACH
		121,   // ERROR_SEM_TIMEOUT
		1225,  // ERROR_CONNECTION_REFUSED
		1231,  // ERROR_NETWORK_UNREACHABLE
		1232,  // ERROR_HOST_UNREACHABLE
		1234,  // ERROR_PORT_UNREACHABLE
	},
	socketBreak: {
		10052, // WSAENETRESET
		10053, // WSAECONNABORTED
		10054, // WSAECONNRESET
		10058, // WSAESHUTDOWN
		10101, // WSAEDISCON
		64,    // ERROR_NETNAME_DELETED: what a pending read says of a reset
		109,   // ERROR_BROKEN_PIPE
		232,   // ERROR_NO_DATA
		1236,  // ERROR_CONNECTION_ABORTED
	},
}

// isSocketError reports whether err is an error of a socket that speaks against fault.
func isSocketError(err error, fault socketFault) bool {
	return isSocketErrorOn(runtime.GOOS, err, fault)
}

func isSocketErrorOn(goos string, err error, fault socketFault) bool {
	if isAny(err, unixErrors[fault]...) { // on Windows too: an application's NetDialContext may use syscall's names
		return true
	}
	var no syscall.Errno
	return goos == "windows" && errors.As(err, &no) && slices.Contains(windowsErrors[fault], no)
}

// isBroken reports whether err says that a connection ended under a handshake.
func isBroken(err error) bool {
	return isAny(err, io.EOF, io.ErrUnexpectedEOF, net.ErrClosed) || isSocketError(err, socketBreak)
}
