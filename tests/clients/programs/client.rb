# SPDX-License-Identifier: MIT
# What ruby programs do: client.rb ECHO_PORT HTTP_PORT. TCPSocket resolves and connects in C,
# Socket.tcp without blocking, net/http over both.
require "net/http"
require "socket"

ECHO, WEB = ARGV.map(&:to_i)

def talk(socket)
  puts "local #{socket.local_address.ip_address} #{socket.local_address.ip_port}"
  socket.puts "hello"
  puts socket.gets
  socket.close
end

talk TCPSocket.new("127.0.0.1", ECHO)
talk TCPSocket.new("::1", ECHO)
talk TCPSocket.new("127.0.0.1", ECHO, "127.0.0.2", 0)
talk Socket.tcp("127.0.0.1", ECHO, connect_timeout: 20)
talk Socket.tcp("127.0.0.1", ECHO, "127.0.0.1", 0)

Net::HTTP.start("127.0.0.1", WEB) do |http|
  2.times { |number| puts http.get("/#{number}").body }
end
puts Net::HTTP.get(URI("http://[::1]:#{WEB}/"))
