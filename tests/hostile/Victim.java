// SPDX-License-Identifier: MIT
// A JVM, which has a handler for SIGBUS of its own and aborts at what it does not know:
//   java Victim PORT MS LO HI
// Prints as victim.c does.
import java.net.InetSocketAddress;
import java.net.Socket;

class Victim {
    public static void main(String[] args) {
        int in = 0, out = 0, failed = 0;
        int lo = Integer.parseInt(args[2]), hi = Integer.parseInt(args[3]);
        long end = System.nanoTime() + Long.parseLong(args[1]) * 1000000;
        while (System.nanoTime() < end) {
            try (Socket socket = new Socket()) {
                socket.setSoLinger(true, 0);
                socket.connect(new InetSocketAddress("127.0.0.1", Integer.parseInt(args[0])));
                int port = socket.getLocalPort();
                if (lo <= port && port <= hi)
                    in++;
                else
                    out++;
            } catch (java.io.IOException e) {
                failed++;
            }
        }
        System.out.printf("in %d out %d failed %d longest 0 lost 0 memory 0%n", in, out, failed);
    }
}
