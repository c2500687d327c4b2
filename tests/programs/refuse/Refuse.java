// One TLS connection that trusts one authority: ADDRESS PORT NAME VERSION AUTHORITY. Prints how it went.
import java.io.FileInputStream;
import java.net.InetSocketAddress;
import java.net.Socket;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLParameters;
import javax.net.ssl.SSLSocket;
import javax.net.ssl.TrustManagerFactory;

public class Refuse {
    public static void main(String[] arguments) throws Exception {
        KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
        store.load(null, null);
        try (FileInputStream authority = new FileInputStream(arguments[4])) {
            store.setCertificateEntry("lab", CertificateFactory.getInstance("X.509").generateCertificate(authority));
        }
        TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init(store);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(null, trust.getTrustManagers(), null);
        int port = Integer.parseInt(arguments[1]);
        try (Socket plain = new Socket()) {
            plain.connect(new InetSocketAddress(arguments[0], port), 1500);
            SSLSocket stream = (SSLSocket) context.getSocketFactory().createSocket(plain, arguments[2], port, true);
            SSLParameters parameters = stream.getSSLParameters();
            parameters.setProtocols(new String[] {"TLSv" + arguments[3]});
            parameters.setEndpointIdentificationAlgorithm("HTTPS");
            parameters.setApplicationProtocols(new String[] {"h2", "http/1.1"});
            stream.setSSLParameters(parameters);
            stream.setSoTimeout(1500);
            stream.getOutputStream().write("GET / HTTP/1.0\r\n\r\n".getBytes());
            System.out.println(stream.getInputStream().read() < 0 ? "failed: ended" : "ok");
            stream.close();
        } catch (java.io.IOException error) {
            System.out.println("failed: " + error.getMessage());
        }
    }
}
