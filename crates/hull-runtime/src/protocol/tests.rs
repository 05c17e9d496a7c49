use super::*;

#[test]
fn a_message_and_its_descriptors_arrive() {
    let (a, b) = pair().unwrap();
    send(a.as_fd(), &Request::KillAll, &[a.as_fd(), b.as_fd()]).unwrap();
    let (request, descriptors) = receive::<Request>(b.as_fd()).unwrap().unwrap();
    assert!(matches!(request, Request::KillAll));
    assert_eq!(descriptors.len(), 2);
    for fd in &descriptors {
        assert!(rustix::io::fcntl_getfd(fd).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
    }
}

#[test]
fn a_long_message_travels_in_a_memory_file() {
    let (a, b) = pair().unwrap();
    let long = vec![7_u8; INLINE_MAX];
    send(a.as_fd(), &long, &[a.as_fd()]).unwrap();
    let (got, descriptors) = receive::<Vec<u8>>(b.as_fd()).unwrap().unwrap();
    assert_eq!(got, long);
    assert_eq!(descriptors.len(), 1);
}

#[test]
fn closed_and_empty_are_told_apart() {
    let (a, b) = pair().unwrap();
    rustix::io::ioctl_fionbio(&b, true).unwrap();
    assert!(matches!(receive::<Request>(b.as_fd()), Err(ReceiveError::WouldBlock)));
    drop(a);
    assert!(receive::<Request>(b.as_fd()).unwrap().is_none());
}

#[test]
fn what_is_no_message_is_refused() {
    let (a, b) = pair().unwrap();
    send(a.as_fd(), &"no-such-request", &[]).unwrap();
    let Err(ReceiveError::Broken(error)) = receive::<Request>(b.as_fd()) else { panic!("accepted") };
    assert!(error.to_string().contains("unknown variant"), "{error}");
    rustix::net::send(&a, &vec![b' '; INLINE_MAX + 1], SendFlags::empty()).unwrap();
    let Err(ReceiveError::Broken(error)) = receive::<Request>(b.as_fd()) else { panic!("accepted") };
    assert!(error.to_string().contains("longer than"), "{error}");
}

#[test]
fn a_memory_file_that_can_change_is_refused() {
    let file = rustix::fs::memfd_create("unsealed", MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::io::write(&file, b"\"kill-all\"").unwrap();
    assert!(unpack(Vec::new(), vec![file]).is_err());
}

#[test]
fn a_full_socket_says_so() {
    let (a, _b) = pair().unwrap();
    rustix::io::ioctl_fionbio(&a, true).unwrap();
    let error = (0..100_000).find_map(|_| send(a.as_fd(), &Request::KillAll, &[]).err()).unwrap();
    assert_eq!(error.errno, Some(libc::EAGAIN));
}

#[test]
fn too_many_descriptors_are_refused() {
    let (a, _b) = pair().unwrap();
    let error = send(a.as_fd(), &Request::KillAll, &[a.as_fd(); DESCRIPTORS_MAX + 1]).unwrap_err();
    assert!(error.to_string().contains("too much"), "{error}");
}

#[test]
fn what_was_said_before_a_reset_is_heard() {
    let (ours, theirs) = pair().unwrap();
    send(theirs.as_fd(), &"last words", &[]).unwrap();
    // Never read by them: their close resets the connection.
    send(ours.as_fd(), &"unread", &[]).unwrap();
    drop(theirs);
    let (said, _) = receive::<String>(ours.as_fd()).unwrap().unwrap();
    assert_eq!(said, "last words");
    assert!(receive::<String>(ours.as_fd()).unwrap().is_none());
}
