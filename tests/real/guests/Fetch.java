import java.net.*;
import java.net.http.*;
import java.nio.charset.StandardCharsets;

/** Fetch direct|http|socks URL [PROXY PORT]: prints the page. */
public class Fetch {
    public static void main(String[] args) throws Exception {
        InetSocketAddress proxy = args.length > 2 ? new InetSocketAddress(args[2], Integer.parseInt(args[3])) : null;
        if (args[0].equals("socks")) {
            URLConnection connection = new URL(args[1]).openConnection(new Proxy(Proxy.Type.SOCKS, proxy));
            System.out.print(new String(connection.getInputStream().readAllBytes(), StandardCharsets.UTF_8));
            return;
        }
        HttpClient.Builder client = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1);
        if (proxy != null) {
            client.proxy(ProxySelector.of(proxy));
        }
        HttpRequest request = HttpRequest.newBuilder(URI.create(args[1])).build();
        System.out.print(client.build().send(request, HttpResponse.BodyHandlers.ofString()).body());
    }
}
