package daemon

import (
	"errors"
	"fmt"
	"net"
)

// notify tells the service manager how we are, by the protocol of sd_notify(3).
// socket is the value of NOTIFY_SOCKET; without one there is nobody to tell.
func notify(socket, state string) error {
	if socket == "" {
		return nil
	}
	if socket[0] != '/' && socket[0] != '@' {
		return fmt.Errorf("notify service manager: NOTIFY_SOCKET=%q is not a path", socket)
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("notify service manager: %w", err)
	}
	_, err = conn.Write([]byte(state))
	if err = errors.Join(err, conn.Close()); err != nil {
		return fmt.Errorf("notify service manager: %w", err)
	}
	return nil
}
