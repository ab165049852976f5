package shop;

final class Greeting {
    static String page() {
        return "hello from Java " + Runtime.version().feature() + "\n";
    }
}
