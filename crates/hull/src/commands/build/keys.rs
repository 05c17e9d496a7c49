//! Keys in files (`--ssh default=FILE`): read here, and answered for as an agent does. They stay with the client: a step
//! has signatures of them, as long as it runs.

use std::path::Path;

use base64::Engine as _;
use hull_api::Keys;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    RSA_PKCS1_SHA256, RSA_PKCS1_SHA512, RsaKeyPair,
};

/// The longest file that is a key's.
const LONGEST: u64 = 64 << 10;

/// What asks an agent, and what it answers.
const IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN: u8 = 13;
const SIGN_ANSWER: u8 = 14;
const FAILURE: u8 = 5;

/// Which hash a signature of RSA's is of.
const SHA2_256: u32 = 2;
const SHA2_512: u32 = 4;

/// Keys of the user's that answer for an agent.
#[derive(Debug)]
pub(super) struct KeyFiles(Vec<Key>);

struct Key {
    /// The public key, as clients name it.
    public: Vec<u8>,
    comment: Vec<u8>,
    private: Private,
}

enum Private {
    Ed25519(Ed25519KeyPair),
    Ecdsa(EcdsaKeyPair, &'static str),
    Rsa(Box<RsaKeyPair>),
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the key {}", String::from_utf8_lossy(&self.comment))
    }
}

impl KeyFiles {
    /// Those of these files.
    ///
    /// # Errors
    /// One is none that can be used as it is.
    pub(super) fn read(paths: &[&Path]) -> Result<KeyFiles, String> {
        let key = |path: &&Path| {
            let wrong = |why: String| format!("{}: {why}", path.display());
            let length = std::fs::metadata(path).map_err(|error| wrong(error.to_string()))?.len();
            if length > LONGEST {
                return Err(wrong("it is too long for a key".to_owned()));
            }
            let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
            Key::parse(&text).map_err(|why| wrong(why.to_owned()))
        };
        paths.iter().map(key).collect::<Result<_, _>>().map(KeyFiles)
    }
}

impl Keys for KeyFiles {
    fn answer(&self, request: &[u8]) -> Vec<u8> {
        let answered = match request.split_first() {
            Some((&IDENTITIES, _)) => Some(self.listed()),
            Some((&SIGN, rest)) => self.signed(rest),
            _ => None,
        };
        answered.unwrap_or_else(|| vec![FAILURE])
    }
}

impl KeyFiles {
    fn listed(&self) -> Vec<u8> {
        let mut answer = vec![IDENTITIES_ANSWER];
        answer.extend((self.0.len() as u32).to_be_bytes());
        for key in &self.0 {
            put(&mut answer, &key.public);
            put(&mut answer, &key.comment);
        }
        answer
    }

    fn signed(&self, request: &[u8]) -> Option<Vec<u8>> {
        let mut input = Input(request);
        let (public, data, flags) = (input.string()?, input.string()?, input.number()?);
        let key = self.0.iter().find(|key| key.public == public)?;
        let (algorithm, signature) = key.private.sign(data, flags)?;
        let mut signed = Vec::new();
        put(&mut signed, algorithm.as_bytes());
        put(&mut signed, &signature);
        let mut answer = vec![SIGN_ANSWER];
        put(&mut answer, &signed);
        Some(answer)
    }
}

impl Private {
    /// A signature, and what kind it is.
    fn sign(&self, data: &[u8], flags: u32) -> Option<(&'static str, Vec<u8>)> {
        let random = SystemRandom::new();
        match self {
            Private::Ed25519(pair) => Some(("ssh-ed25519", pair.sign(data).as_ref().to_vec())),
            Private::Ecdsa(pair, algorithm) => {
                let fixed = pair.sign(&random, data).ok()?;
                let (r, s) = fixed.as_ref().split_at(fixed.as_ref().len() / 2);
                let mut signature = Vec::new();
                put(&mut signature, &positive(r));
                put(&mut signature, &positive(s));
                Some((algorithm, signature))
            }
            Private::Rsa(pair) => {
                // By SHA-1, which is what is meant without a flag, nothing is signed any more.
                let (algorithm, padding) = match flags {
                    flags if flags & SHA2_512 != 0 => ("rsa-sha2-512", &RSA_PKCS1_SHA512),
                    flags if flags & SHA2_256 != 0 => ("rsa-sha2-256", &RSA_PKCS1_SHA256),
                    _ => return None,
                };
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(padding, &random, data, &mut signature).ok()?;
                Some((algorithm, signature))
            }
        }
    }
}

impl Key {
    /// Of a file as `ssh-keygen` writes it.
    fn parse(text: &str) -> Result<Key, &'static str> {
        const BROKEN: &str = "it is a damaged key";
        let body = text
            .trim()
            .strip_prefix("-----BEGIN OPENSSH PRIVATE KEY-----")
            .and_then(|text| text.strip_suffix("-----END OPENSSH PRIVATE KEY-----"));
        let body = body.ok_or(match text.contains("PRIVATE KEY-----") {
            true => "it is a key in an older format: rewrite it (ssh-keygen -p -f FILE), or ssh-add it to an agent",
            false => "it is neither an agent's socket nor a private key",
        })?;
        let plain: String = body.split_whitespace().collect();
        let bytes = base64::engine::general_purpose::STANDARD.decode(plain).map_err(|_| BROKEN)?;
        let mut input = Input(bytes.strip_prefix(b"openssh-key-v1\0").ok_or(BROKEN)?);
        if input.string().ok_or(BROKEN)? != b"none" {
            return Err(
                "it has a passphrase: start an agent, eval $(ssh-agent), ssh-add it, and build with --ssh default",
            );
        }
        let _derivation = (input.string(), input.string());
        if input.number() != Some(1) {
            return Err("there is not one key in it");
        }
        let public = input.string().ok_or(BROKEN)?.to_vec();
        let mut input = Input(input.string().ok_or(BROKEN)?);
        let checks = (input.number(), input.number());
        if checks.0.is_none() || checks.0 != checks.1 {
            return Err(BROKEN);
        }
        let private = Private::parse(&mut input)?;
        let comment = input.string().ok_or(BROKEN)?.to_vec();
        Ok(Key { public, comment, private })
    }
}

impl Private {
    fn parse(input: &mut Input<'_>) -> Result<Private, &'static str> {
        const BROKEN: &str = "it is a damaged key";
        let mut next = || input.string().ok_or(BROKEN);
        match next()? {
            b"ssh-ed25519" => {
                let (public, private) = (next()?, next()?);
                let seed = private.get(..32).ok_or(BROKEN)?;
                let pair = Ed25519KeyPair::from_seed_and_public_key(seed, public).map_err(|_| BROKEN)?;
                Ok(Private::Ed25519(pair))
            }
            name @ (b"ecdsa-sha2-nistp256" | b"ecdsa-sha2-nistp384") => {
                let (length, algorithm, signing) = match name {
                    b"ecdsa-sha2-nistp256" => {
                        (32usize, "ecdsa-sha2-nistp256", &ECDSA_P256_SHA256_FIXED_SIGNING)
                    }
                    _ => (48, "ecdsa-sha2-nistp384", &ECDSA_P384_SHA384_FIXED_SIGNING),
                };
                let (_curve, public, scalar) = (next()?, next()?, next()?);
                // As long as the curve's order, whatever leading zeros it was written with.
                let scalar: Vec<u8> = scalar.iter().copied().skip_while(|byte| *byte == 0).collect();
                let zeros = length.checked_sub(scalar.len()).ok_or(BROKEN)?;
                let scalar = [vec![0; zeros], scalar].concat();
                let random = SystemRandom::new();
                let pair = EcdsaKeyPair::from_private_key_and_public_key(signing, &scalar, public, &random);
                Ok(Private::Ecdsa(pair.map_err(|_| BROKEN)?, algorithm))
            }
            b"ssh-rsa" => {
                let mut number =
                    || Ok::<_, &str>(next()?.iter().copied().skip_while(|byte| *byte == 0).collect());
                let [n, e, d, q_inverse, p, q]: [Vec<u8>; 6] =
                    [number()?, number()?, number()?, number()?, number()?, number()?];
                let components = ring::rsa::KeyPairComponents {
                    public_key: ring::rsa::PublicKeyComponents { n, e },
                    dP: remainder(&d, &less_one(&p)),
                    dQ: remainder(&d, &less_one(&q)),
                    qInv: q_inverse,
                    d,
                    p,
                    q,
                };
                let pair = RsaKeyPair::from_components(&components);
                let pair = pair.map_err(|_| "it is a damaged RSA key, or one of less than 2048 bits")?;
                Ok(Private::Rsa(Box::new(pair)))
            }
            _ => Err(
                "it is a key of a kind that hull does not read: ssh-add it to an agent, and build with --ssh default",
            ),
        }
    }
}

/// A number without the last one, of an odd one.
fn less_one(number: &[u8]) -> Vec<u8> {
    let mut number = number.to_vec();
    number.last_mut().into_iter().for_each(|last| *last &= !1);
    number
}

/// What is left of a number that is divided by another, bit by bit: it is done once a key.
fn remainder(number: &[u8], by: &[u8]) -> Vec<u8> {
    let length = by.len() + 1;
    let by = [&[0], by].concat();
    let mut rest = vec![0u8; length];
    for bit in number.iter().flat_map(|byte| (0..8).rev().map(move |at| (byte >> at) & 1)) {
        let mut carry = bit;
        for byte in rest.iter_mut().rev() {
            (*byte, carry) = ((*byte << 1) | carry, *byte >> 7);
        }
        if rest >= by {
            let mut borrow = false;
            for (byte, other) in rest.iter_mut().zip(&by).rev() {
                let (less, under) = byte.overflowing_sub(*other);
                let (less, under_too) = less.overflowing_sub(u8::from(borrow));
                (*byte, borrow) = (less, under || under_too);
            }
        }
    }
    rest.into_iter().skip_while(|byte| *byte == 0).collect()
}

/// A number of SSH's: no zeros before it but one where it would be negative.
fn positive(number: &[u8]) -> Vec<u8> {
    let mut number: Vec<u8> = number.iter().copied().skip_while(|byte| *byte == 0).collect();
    if number.first().is_some_and(|first| first & 0x80 != 0) {
        number.insert(0, 0);
    }
    number
}

/// Adds a string behind its length.
fn put(to: &mut Vec<u8>, bytes: &[u8]) {
    to.extend((bytes.len() as u32).to_be_bytes());
    to.extend(bytes);
}

/// What is read.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn number(&mut self) -> Option<u32> {
        let (head, rest) = self.0.split_first_chunk::<4>()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*head))
    }

    fn string(&mut self) -> Option<&'a [u8]> {
        let length = self.number()? as usize;
        let (string, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(string)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_of_a_division() {
        // 1193046 of 291: 237 is left.
        assert_eq!(remainder(&[0x12, 0x34, 0x56], &[0x01, 0x23]), [237]);
        assert_eq!(remainder(&[5], &[7]), [5]);
        assert_eq!(positive(&[0, 0x80]), [0, 0x80]);
        assert_eq!(positive(&[0, 0x7f]), [0x7f]);
    }

    #[test]
    fn what_is_no_key_is_told_with_what_to_do() {
        let why = |text: &str| Key::parse(text).unwrap_err();
        assert!(why("").contains("neither an agent's socket nor a private key"));
        assert!(why("-----BEGIN RSA PRIVATE KEY-----\n").contains("ssh-keygen -p"));
        let of = |bytes: &[u8]| {
            let body =
                base64::engine::general_purpose::STANDARD.encode([b"openssh-key-v1\0", bytes].concat());
            format!("-----BEGIN OPENSSH PRIVATE KEY-----\n{body}\n-----END OPENSSH PRIVATE KEY-----\n")
        };
        assert!(why(&of(b"\0\0\0\x0aaes256-ctr")).contains("passphrase"));
        assert_eq!(why(&of(b"\0\0\0\x04none\0\0")), "there is not one key in it");
        assert_eq!(KeyFiles(Vec::new()).answer(&[SIGN, 0, 0]), [FAILURE]);
        assert_eq!(KeyFiles(Vec::new()).answer(&[]), [FAILURE]);
        assert_eq!(KeyFiles(Vec::new()).answer(&[IDENTITIES]), [IDENTITIES_ANSWER, 0, 0, 0, 0]);
    }
}
