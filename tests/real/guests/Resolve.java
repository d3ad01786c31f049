import java.net.InetAddress;

public class Resolve {
    public static void main(String[] arguments) throws Exception {
        for (InetAddress address : InetAddress.getAllByName(arguments[0])) {
            System.out.println(address.getHostAddress());
        }
    }
}
