// SPDX-License-Identifier: MIT
// What Java programs do: Client.java ECHO_PORT HTTP_PORT. The JVM opens AF_INET6 sockets for IPv4
// too, and asks for the local port right after a bind.
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.ByteBuffer;
import java.nio.channels.SelectionKey;
import java.nio.channels.Selector;
import java.nio.channels.SocketChannel;

class Client {
    static final InetSocketAddress NONE = new InetSocketAddress("127.0.0.2", 0);

    static void tell(InetAddress address, int port) {
        String name = address.getHostAddress().replace("0:0:0:0:0:0:0:1", "::1");
        System.out.println("local " + name + " " + port);
    }

    static void talk(String host, int port, boolean bind) throws Exception {
        try (Socket socket = bind ? new Socket(host, port, NONE.getAddress(), 0) : new Socket()) {
            if (!bind)
                socket.connect(new InetSocketAddress(host, port), 20000);
            tell(socket.getLocalAddress(), socket.getLocalPort());
            socket.getOutputStream().write("hello".getBytes());
            System.out.println(new String(socket.getInputStream().readNBytes(5)));
        }
    }

    static void channel(String host, int port, boolean bind) throws Exception {
        try (SocketChannel channel = SocketChannel.open(); Selector selector = Selector.open()) {
            if (bind)
                channel.bind(NONE);
            channel.configureBlocking(false);
            if (!channel.connect(new InetSocketAddress(host, port))) {
                channel.register(selector, SelectionKey.OP_CONNECT);
                selector.select(20000);
                System.out.println("connected " + channel.finishConnect());
            } else {
                System.out.println("connected true");
            }
            InetSocketAddress local = (InetSocketAddress) channel.getLocalAddress();
            tell(local.getAddress(), local.getPort());
            channel.write(ByteBuffer.wrap("hello".getBytes()));
            channel.register(selector, SelectionKey.OP_READ);
            selector.select(20000);
            System.out.println("read " + channel.read(ByteBuffer.allocate(5)));
        }
    }

    static void itself() throws Exception {
        try (ServerSocket server = new ServerSocket(0, 5, InetAddress.getByName("127.0.0.1"));
                Socket socket = new Socket(server.getInetAddress(), server.getLocalPort());
                Socket accepted = server.accept()) {
            System.out.println("same " + (accepted.getPort() == socket.getLocalPort()));
        }
    }

    public static void main(String[] ports) throws Exception {
        int echo = Integer.parseInt(ports[0]);
        int web = Integer.parseInt(ports[1]);
        for (String host : new String[] {"127.0.0.1", "::1"}) {
            talk(host, echo, false);
            channel(host, echo, false);
        }
        talk("127.0.0.1", echo, true);
        channel("127.0.0.1", echo, true);
        itself();
        URI page = URI.create("http://127.0.0.1:" + web + "/");
        System.out.println(HttpClient.newHttpClient()
                .send(HttpRequest.newBuilder(page).build(), HttpResponse.BodyHandlers.ofString())
                .body());
    }
}
