fn main() {
    let mut buffer = itoa::Buffer::new();
    println!("{} by rust", buffer.format(42u64));
}
