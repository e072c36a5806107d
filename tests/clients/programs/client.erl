%% SPDX-License-Identifier: MIT
%% What Erlang programs do: escript client.erl ECHO_PORT. With {ip, A} gen_tcp binds to "any port" and asks
%% for the port before it connects; inet_backend is the driver's, or sockets of the newer module socket.
main([Argument | _]) ->
    Port = list_to_integer(Argument),
    Backends = [[], [{inet_backend, socket}]],
    [talk({127, 0, 0, 1}, Port, Backend ++ Options)
     || Backend <- Backends, Options <- [[], [{ip, {127, 0, 0, 2}}], [{ip, {127, 0, 0, 2}}, {port, 0}],
                                         [{ip, {127, 0, 0, 2}}, {reuseaddr, true}], [{ifaddr, {127, 0, 0, 3}}]]],
    [talk({0, 0, 0, 0, 0, 0, 0, 1}, Port, Backend ++ [inet6 | Options])
     || Backend <- Backends, Options <- [[], [{ip, {0, 0, 0, 0, 0, 0, 0, 1}}]]],
    listens().

talk(To, Port, Options) ->
    {ok, Socket} = gen_tcp:connect(To, Port, Options ++ [binary, {active, false}], 20000),
    {ok, {Address, Own}} = inet:sockname(Socket),
    io:format("local ~s ~w~n", [inet:ntoa(Address), Own]),
    ok = gen_tcp:send(Socket, <<"hello">>),
    {ok, Answer} = gen_tcp:recv(Socket, 5, 20000),
    io:format("~s~n", [Answer]),
    ok = gen_tcp:close(Socket).

%% A listener on "any port" is at the port that it was told.
listens() ->
    {ok, Listener} = gen_tcp:listen(0, [{ip, {127, 0, 0, 2}}, binary, {active, false}]),
    {ok, Port} = inet:port(Listener),
    {ok, Socket} = gen_tcp:connect({127, 0, 0, 2}, Port, [binary, {active, false}], 20000),
    {ok, Accepted} = gen_tcp:accept(Listener, 20000),
    {ok, {_, Port}} = inet:sockname(Accepted),
    io:format("listens ~w~n", [Port > 0]),
    [gen_tcp:close(Each) || Each <- [Socket, Accepted]],
    ok = gen_tcp:close(Listener).
