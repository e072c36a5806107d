# SPDX-License-Identifier: MIT
# What perl programs do: client.pl ECHO_PORT. IO::Socket::INET binds first when a local address is
# given, and connects without blocking when there is a time limit.
use strict;
use warnings;
use IO::Socket::INET;
use IO::Socket::IP;

my ($port) = @ARGV;

sub talk {
    my ($socket) = @_;
    die "no connection: $@" unless $socket;
    printf "local %s %d\n", $socket->sockhost, $socket->sockport;
    print {$socket} "hello\n";
    print scalar <$socket>;
    close $socket;
}

my @server = (PeerHost => '127.0.0.1', PeerPort => $port, Proto => 'tcp');
talk(IO::Socket::INET->new(@server));
talk(IO::Socket::INET->new(@server, Timeout => 20));
talk(IO::Socket::INET->new(@server, LocalAddr => '127.0.0.2'));
talk(IO::Socket::IP->new(PeerHost => '::1', PeerPort => $port, Type => SOCK_STREAM));
