//! Many connections at once, all of a server's in one thread: 5000 with `PEERMUX_LONG=1`, 200 without.

use super::*;

#[test]
fn many_connections_in_one_thread_carry_what_they_should() -> Result<()> {
    let connections = if std::env::var_os("PEERMUX_LONG").is_some() { 5000 } else { 200 };
    reserve(2 * connections)?;
    let config = config(None);
    let key = StaticSecret::from_bytes(&[1; 32]);
    let host = key.public_key();
    let listener = TcpListener::bind("127.0.0.1:0".parse()?)?;
    let address = listener.local_addr()?;
    let server = Server { key, config: config.clone() };
    let serving = std::thread::spawn(move || -> io::Result<()> {
        let mut server = EventLoop::new(server)?;
        server.listen(listener)?;
        // Ends only if all were there at the same time, and are gone.
        let mut most = 0;
        while most < connections || server.len() > 0 {
            server.turn()?;
            most = most.max(server.len());
        }
        assert_eq!(most, connections);
        Ok(())
    });
    run_client(address, ExpectedPeer::Key(host), connections, &config)?;
    serving.join().expect("the server does not panic")?;
    Ok(())
}
