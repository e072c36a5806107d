// SPDX-License-Identifier: MIT
// A JVM, which has a handler for SIGBUS of its own and aborts at what it does not know. It also maps a
// file and cuts it, so that the handler is needed: what it makes of that must come, or is "lost".
//   java Victim PORT MS LO HI
// Prints as victim.c does.
import java.io.IOException;
import java.net.InetSocketAddress;
import java.net.Socket;
import java.nio.MappedByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;

class Victim {
    static boolean faultComes() {
        try {
            Path path = Files.createTempFile("fixport-victim", "");
            try (FileChannel file = FileChannel.open(path, StandardOpenOption.READ, StandardOpenOption.WRITE)) {
                MappedByteBuffer memory = file.map(FileChannel.MapMode.READ_WRITE, 0, 4096);
                file.truncate(0);
                byte[] copy = new byte[4096];
                memory.get(copy);
                Thread.yield();
            } finally {
                Files.delete(path);
            }
        } catch (InternalError fault) {
            return true;
        } catch (IOException e) {
            System.err.println(e);
        }
        return false;
    }

    public static void main(String[] args) {
        int in = 0, out = 0, failed = 0, lost = 0;
        int lo = Integer.parseInt(args[2]), hi = Integer.parseInt(args[3]);
        long end = System.nanoTime() + Long.parseLong(args[1]) * 1000000;
        while (System.nanoTime() < end) {
            if ((in + out + failed) % 100 == 0 && !faultComes())
                lost++;
            try (Socket socket = new Socket()) {
                socket.setSoLinger(true, 0);
                socket.connect(new InetSocketAddress("127.0.0.1", Integer.parseInt(args[0])));
                int port = socket.getLocalPort();
                if (lo <= port && port <= hi)
                    in++;
                else
                    out++;
            } catch (IOException e) {
                failed++;
            }
        }
        System.out.printf("in %d out %d failed %d longest 0 lost %d memory 0%n", in, out, failed, lost);
    }
}
