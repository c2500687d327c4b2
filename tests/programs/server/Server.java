// HTTP/1.1 by com.sun.net.httpserver. See ../README.md for the arguments; the JDK writes no key log, and takes a PKCS #12
// store with password `timeline` for CERTIFICATE.
import com.sun.net.httpserver.HttpsConfigurator;
import com.sun.net.httpserver.HttpsServer;
import java.io.FileInputStream;
import java.net.InetSocketAddress;
import java.security.KeyStore;
import java.util.concurrent.Executors;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SSLContext;

public class Server {
    public static void main(String[] arguments) throws Exception {
        char[] password = "timeline".toCharArray();
        KeyStore store = KeyStore.getInstance("PKCS12");
        try (FileInputStream file = new FileInputStream(arguments[3])) {
            store.load(file, password);
        }
        KeyManagerFactory keys = KeyManagerFactory.getInstance("SunX509");
        keys.init(store, password);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(keys.getKeyManagers(), null, null);
        int first = Integer.parseInt(arguments[1]);
        for (int port = first; port < first + Integer.parseInt(arguments[2]); port++) {
            HttpsServer server = HttpsServer.create(new InetSocketAddress(arguments[0], port), 128);
            server.setHttpsConfigurator(new HttpsConfigurator(context));
            server.setExecutor(Executors.newCachedThreadPool());
            server.createContext("/think/", exchange -> {
                try (exchange) {
                    Thread.sleep(Integer.parseInt(exchange.getRequestURI().getPath().substring("/think/".length())));
                    byte[] body = "answered\n".getBytes();
                    exchange.sendResponseHeaders(200, body.length);
                    exchange.getResponseBody().write(body);
                } catch (InterruptedException interrupted) {
                    throw new java.io.IOException(interrupted);
                }
            });
            server.start();
        }
        System.out.println("ready");
        System.in.readAllBytes();
        System.exit(0);
    }
}
