// HTTP/1.1 and HTTP/2 by java.net.http. See ../README.md for the arguments; the JDK writes no key log.
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;
import java.security.SecureRandom;
import java.security.cert.X509Certificate;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLEngine;
import javax.net.ssl.SSLParameters;
import javax.net.ssl.TrustManager;
import javax.net.ssl.X509ExtendedTrustManager;

public class Client {
    public static void main(String[] arguments) throws Exception {
        // Started with -Djdk.net.hosts.file, which gives NAME its address.
        URI uri = URI.create("https://" + arguments[2] + ":" + arguments[1] + arguments[5]);
        HttpClient.Version version = arguments[4].equals("2") ? HttpClient.Version.HTTP_2 : HttpClient.Version.HTTP_1_1;
        int requests = Integer.parseInt(arguments[8]);
        ExecutorService pool = Executors.newFixedThreadPool(Integer.parseInt(arguments[7]));
        List<Future<?>> all = new ArrayList<>();
        for (int i = 0; i < Integer.parseInt(arguments[6]); i++) {
            all.add(pool.submit(() -> {
                // A context of its own: no session to resume, no connection to reuse.
                SSLContext context = SSLContext.getInstance("TLS");
                context.init(null, new TrustManager[] {new TrustAll()}, new SecureRandom());
                SSLParameters parameters = new SSLParameters();
                parameters.setProtocols(new String[] {"TLSv" + arguments[3]});
                HttpClient client = HttpClient.newBuilder().version(version).sslContext(context).sslParameters(parameters).build();
                for (int request = 0; request < requests; request++) {
                    var answer = client.send(HttpRequest.newBuilder(uri).build(), BodyHandlers.ofString());
                    if (answer.statusCode() != 200 || answer.version() != version) {
                        throw new IllegalStateException(answer.version() + " " + answer.statusCode());
                    }
                }
                return null;
            }));
        }
        for (Future<?> one : all) {
            one.get();
        }
        // Closes all connections; a client of JDK 17 cannot be closed.
        System.exit(0);
    }

    static class TrustAll extends X509ExtendedTrustManager {
        public void checkClientTrusted(X509Certificate[] chain, String type, java.net.Socket socket) {}
        public void checkServerTrusted(X509Certificate[] chain, String type, java.net.Socket socket) {}
        public void checkClientTrusted(X509Certificate[] chain, String type, SSLEngine engine) {}
        public void checkServerTrusted(X509Certificate[] chain, String type, SSLEngine engine) {}
        public void checkClientTrusted(X509Certificate[] chain, String type) {}
        public void checkServerTrusted(X509Certificate[] chain, String type) {}
        public X509Certificate[] getAcceptedIssuers() { return new X509Certificate[0]; }
    }
}
