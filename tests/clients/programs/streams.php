<?php
// SPDX-License-Identifier: MIT
// What php programs do without extensions: streams.php ECHO_PORT. Streams connect without blocking
// and wait themselves; "bindto" binds first.

function talk($stream): void
{
    $name = stream_socket_get_name($stream, false);
    echo preg_replace('/^(.*):(\d+)$/', 'local $1 $2', $name), "\n";
    fwrite($stream, "hello\n");
    echo fgets($stream);
    fclose($stream);
}

$server = "127.0.0.1:$argv[1]";
talk(stream_socket_client("tcp://$server", $number, $reason, 20));
talk(fsockopen("127.0.0.1", (int) $argv[1]));
$context = stream_context_create(["socket" => ["bindto" => "127.0.0.2:0"]]);
talk(stream_socket_client("tcp://$server", $number, $reason, 20, STREAM_CLIENT_CONNECT, $context));
