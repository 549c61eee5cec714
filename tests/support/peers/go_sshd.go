// Runs an SSH server on golang.org/x/crypto/ssh that forwards like common bastions in Go: when one direction ends,
// it closes the channel immediately, without an EOF (RFC 4254, section 5.3, allows this). Half-closes are impossible.
package main

import (
	"bytes"
	"flag"
	"io"
	"log"
	"net"
	"os"
	"strconv"

	"golang.org/x/crypto/ssh"
)

// target is the payload of a direct-tcpip channel request (RFC 4254, section 7.2).
type target struct {
	Host       string
	Port       uint32
	OriginHost string
	OriginPort uint32
}

func main() {
	listen := flag.String("listen", "", "address and port")
	hostKey := flag.String("host-key", "", "file of the private host key")
	authorized := flag.String("authorized", "", "file of the public key that may log in")
	rekey := flag.Uint64("rekey", 0, "bytes in one direction after which new keys are asked for; 0: the library's default")
	flag.Parse()

	signer, err := ssh.ParsePrivateKey(read(*hostKey))
	check(err)
	allowed, _, _, _, err := ssh.ParseAuthorizedKey(read(*authorized))
	check(err)
	config := &ssh.ServerConfig{
		Config: ssh.Config{RekeyThreshold: *rekey},
		PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			if !bytes.Equal(key.Marshal(), allowed.Marshal()) {
				return nil, io.ErrUnexpectedEOF
			}
			return nil, nil
		},
	}
	config.AddHostKey(signer)
	listener, err := net.Listen("tcp", *listen)
	check(err)
	for {
		conn, err := listener.Accept()
		check(err)
		go serve(conn, config)
	}
}

func serve(conn net.Conn, config *ssh.ServerConfig) {
	server, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		log.Print(err)
		return
	}
	defer server.Close()
	go ssh.DiscardRequests(requests)
	for asked := range channels {
		go forward(asked)
	}
}

func forward(asked ssh.NewChannel) {
	var to target
	if asked.ChannelType() != "direct-tcpip" || ssh.Unmarshal(asked.ExtraData(), &to) != nil {
		asked.Reject(ssh.UnknownChannelType, "only direct-tcpip")
		return
	}
	backend, err := net.Dial("tcp", net.JoinHostPort(to.Host, strconv.Itoa(int(to.Port))))
	if err != nil {
		asked.Reject(ssh.ConnectionFailed, err.Error())
		return
	}
	channel, requests, err := asked.Accept()
	if err != nil {
		backend.Close()
		return
	}
	go ssh.DiscardRequests(requests)
	pump := func(to io.Writer, from io.Reader) {
		defer channel.Close()
		defer backend.Close()
		io.Copy(to, from)
	}
	go pump(channel, backend)
	go pump(backend, channel)
}

func read(path string) []byte {
	data, err := os.ReadFile(path)
	check(err)
	return data
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
