/** Methods that are compiled, down to one that waits. */
public class Frames {
    static void innermost() throws InterruptedException {
        System.out.println("ready");
        System.out.flush();
        Thread.sleep(1_000_000);
    }

    static void outer(int count) throws InterruptedException {
        for (int number = 0; number < count; number++) {
            innermost();
        }
    }

    public static void main(String[] arguments) throws InterruptedException {
        outer(arguments.length + 1);
    }
}
