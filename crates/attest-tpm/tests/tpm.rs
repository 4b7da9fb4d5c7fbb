//! Enrolment, quotes, sealing and counters on software TPMs: the same commands that a TPM of silicon gets.
//! The names carry the numbers of the attack list.

mod common;

use std::io::Read as _;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;

use common::{Authority, Scratch, SoftwareTpm, now};
use dunlin_attest::{
    AppraisalContext, Attester as _, AttesterError, BindingContext, Bytes, Class, Endorsements, Evidence, Policy, Role,
    Rule, SigningKey, SimRoots, StatementError, TpmEvent, TpmEventKind, TpmQuote, TrustRoots, Verifier, VerifyError,
};
use dunlin_attest_tpm::{
    Code, Counter, EkError, EkKind, EnrolError, PendingEnrolment, SealRegister, Sealed, SealedError, Tpm, TpmAttester,
    TpmError, TpmSettings, answer, request,
};
use dunlin_base::Digest;
use dunlin_handover::boot::{self, Blob, Boot};
use dunlin_handover::ledger::{
    Candidate, Checks, Ledger as _, MemoryLedger, Operation, Receipt, Recovery, Request, Signer,
};
use dunlin_handover::{Key, Nonce, OperationId, PlatformId, ServiceId};

fn provider_key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32]).expect("a key")
}

/// Everything is class `sim` under these roots; that it is `measured_host` under an owner's policy is shown below.
fn roots() -> SimRoots {
    SimRoots { providers: vec![("acme".to_owned(), provider_key(2).verifying_key())], ..SimRoots::default() }
}

fn binding(nonce: u8) -> BindingContext {
    BindingContext {
        role: Role::Destination,
        exporter: [0x11; 32],
        peer_nonce: [nonce; 32],
        own_spki: Digest::of(b"own"),
        peer_spki: Digest::of(b"peer"),
        instance_key: provider_key(4).verifying_key(),
        kem_key: Bytes::from([0x33; 32]),
        service: "shop".to_owned(),
        epoch: 7,
        migration: [0x44; 16],
        policy: Digest::of(b"policy"),
        module: Digest::of(b"module"),
        provider: "acme".to_owned(),
        ledger: "ledger-1".to_owned(),
    }
}

fn events() -> [TpmEvent; 3] {
    [
        TpmEvent { kind: TpmEventKind::Runtime, digest: Digest::of(b"runtime") },
        TpmEvent { kind: TpmEventKind::Policy, digest: Digest::of(b"policy") },
        TpmEvent { kind: TpmEventKind::Module, digest: Digest::of(b"module") },
    ]
}

/// Enrols a TPM with a provider, both sides in one process.
fn enrol(tpm: &SoftwareTpm, authority: &Authority, kind: EkKind) -> Result<Vec<u8>, EnrolError> {
    let mut tpm = tpm.open();
    let asked = request(&mut tpm, Some(kind))?;
    let pending = PendingEnrolment::begin(asked.clone(), &authority.certificates(), now())?;
    let answered = answer(&mut tpm, &asked, pending.challenge())?;
    let statement = pending.finish(&answered, "acme", now() - 60, now() + 86_400)?;
    Ok(statement.sign(&provider_key(2)).expect("signs"))
}

fn attester(scratch: &Scratch, tpm: &SoftwareTpm, statement: Option<Vec<u8>>) -> TpmAttester {
    let settings = TpmSettings { device: tpm.device(), event_log: scratch.path("events"), statement, platform: None };
    TpmAttester::new(settings).expect("an attester")
}

fn quote_of(evidence: Evidence) -> TpmQuote {
    match evidence {
        Evidence::Tpm(quote) => *quote,
        other => panic!("{other:?}"),
    }
}

#[test]
fn t01_a_tpm_is_enrolled_under_its_providers_ca_and_its_quote_verifies() {
    let scratch = Scratch::new("t01");
    let authority = Authority::new(&scratch, "acme");
    for (name, ecc, kind) in [("rsa", false, EkKind::Rsa2048), ("ecc", true, EkKind::P384)] {
        let _ = std::fs::remove_file(scratch.path("events"));
        let tpm = SoftwareTpm::made_by(&scratch, name, &authority, ecc);
        let statement = enrol(&tpm, &authority, kind).expect("enrolled");
        let attester = attester(&scratch, &tpm, Some(statement));
        for event in events() {
            attester.measure(event).expect("measured");
            attester.measure(event).expect("measured once");
        }
        let evidence = attester.evidence(&binding(1).report_data()).expect("evidence");
        let read = Evidence::from_cbor(&evidence.to_cbor()).expect("the container");
        assert_eq!(read, evidence);
        let endorsements = attester.endorsements().expect("the statement");
        let claims = Verifier::appraise(&evidence, &endorsements, &binding(1).report_data(), now(), &roots())
            .unwrap_or_else(|error| panic!("{name}: {error:?}"));
        assert_eq!(claims.provider.as_deref(), Some("acme"));
        assert_eq!(claims.registers["runtime"], Bytes::from(Digest::of(b"runtime").0));
        assert_eq!(claims.measured_policies, [Digest::of(b"policy")]);
        assert_eq!(claims.class, Class::Sim, "the roots are those of tests");
        assert!(claims.platform.as_str().starts_with("tpm:"));
    }
}

#[test]
fn t01_under_an_owners_policy_a_quote_is_class_measured_host() {
    let scratch = Scratch::new("t01-policy");
    let authority = Authority::new(&scratch, "acme");
    let tpm = SoftwareTpm::made_by(&scratch, "tpm", &authority, false);
    let statement = enrol(&tpm, &authority, EkKind::Rsa2048).expect("enrolled");
    let attester = attester(&scratch, &tpm, Some(statement));
    let policy = |floor: &str, runtime: &str| {
        let text = format!(
            "format = 1\nservice = \"shop\"\nversion = 1\nissued = 2020-01-01T00:00:00Z\nexpires = 2100-01-01T00:00:00Z\n\
             class_floor = \"{floor}\"\nmodules = [\"sha256:{}\"]\n[tpm]\naccept = [{{ runtime = \"{}\" }}]\n\
             [[provider]]\nid = \"acme\"\nkey = \"{}\"\naccept_signed_platforms = true\n\
             [migration]\ndestination = \"any_accepted\"\n[ledger]\nid = \"ledger-1\"\nkeys = [\"{}\"]\nquorum = 1\n",
            Digest::of(b"module"),
            Digest::of(runtime.as_bytes()),
            provider_key(2).verifying_key(),
            provider_key(5).verifying_key(),
        );
        let signed = Policy::sign(&text, &provider_key(1)).unwrap_or_else(|error| panic!("{error}\n{text}"));
        Policy::verify(&signed, "shop", &[provider_key(1).verifying_key()], None).expect("a policy")
    };
    let good = policy("measured_host", "runtime");
    let binding = BindingContext { policy: good.hash(), ..binding(1) };
    attester.measure(events()[0]).expect("measured");
    attester.measure(TpmEvent { kind: TpmEventKind::Policy, digest: good.hash() }).expect("measured");
    let evidence = attester.evidence(&binding.report_data()).expect("evidence");
    let endorsements = attester.endorsements().expect("the statement");
    let appraise = |policy: &Policy| {
        let roots = TrustRoots::for_policy(policy);
        let claims =
            Verifier::appraise(&evidence, &endorsements, &binding.report_data(), now(), &roots).expect("genuine");
        assert_eq!(claims.class, Class::MeasuredHost);
        let context = AppraisalContext {
            now: now(),
            binding: &binding,
            role: Role::Destination,
            source: None,
            tpm_last_seen: None,
        };
        policy.appraise(&claims, &context)
    };
    assert_eq!(appraise(&good).reasons(), [], "{:?}", appraise(&good));
    assert!(appraise(&policy("measured_host", "another runtime")).breaks(Rule::Measurement));
    // The TPM's last seen counts are higher: somebody put an older TPM back.
    let roots = TrustRoots::for_policy(&good);
    let claims = Verifier::appraise(&evidence, &endorsements, &binding.report_data(), now(), &roots).expect("genuine");
    let context = AppraisalContext {
        now: now(),
        binding: &binding,
        role: Role::Destination,
        source: None,
        tpm_last_seen: Some((u32::MAX, 0)),
    };
    assert!(good.appraise(&claims, &context).breaks(Rule::TpmRollback));
}

#[test]
fn t02_an_attestation_key_of_another_tpm_does_not_open_the_credential() {
    let scratch = Scratch::new("t02");
    let authority = Authority::new(&scratch, "acme");
    let (good, other) = (
        SoftwareTpm::made_by(&scratch, "good", &authority, false),
        SoftwareTpm::made_by(&scratch, "other", &authority, false),
    );
    let mut asked = request(&mut good.open(), None).expect("a request");
    let of_other = request(&mut other.open(), None).expect("a request");
    // The certificate of one TPM, the attestation key of another.
    asked.ak_public = of_other.ak_public.clone();
    let pending = PendingEnrolment::begin(asked.clone(), &authority.certificates(), now()).expect("looks right");
    for tpm in [&good, &other] {
        let refused = answer(&mut tpm.open(), &asked, pending.challenge());
        // Software TPMs differ in the code for a seed that is not theirs.
        assert!(matches!(refused, Err(EnrolError::Tpm(TpmError::Refused { .. }))), "{refused:?}");
    }
    // And what is guessed is refused by the provider.
    let asked = request(&mut good.open(), None).expect("a request");
    let pending = PendingEnrolment::begin(asked.clone(), &authority.certificates(), now()).expect("right");
    let mut answered = answer(&mut good.open(), &asked, pending.challenge()).expect("an answer");
    answered.secret[0] ^= 1;
    assert!(matches!(pending.finish(&answered, "acme", 0, u64::MAX), Err(EnrolError::Secret)));
    // A quote for another challenge does not complete an enrolment.
    let first = PendingEnrolment::begin(asked.clone(), &authority.certificates(), now()).expect("right");
    let second = PendingEnrolment::begin(asked.clone(), &authority.certificates(), now()).expect("right");
    let mut mixed = answer(&mut good.open(), &asked, first.challenge()).expect("an answer");
    let fresh = answer(&mut good.open(), &asked, second.challenge()).expect("an answer");
    (mixed.attest, mixed.signature) = (fresh.attest, fresh.signature);
    assert!(matches!(first.finish(&mixed, "acme", 0, u64::MAX), Err(EnrolError::OtherQuote)));
}

#[test]
fn t03_the_endorsement_key_of_another_providers_ca_is_refused() {
    let scratch = Scratch::new("t03");
    let (acme, rival) = (Authority::new(&scratch, "acme"), Authority::new(&scratch, "rival"));
    let ours = SoftwareTpm::made_by(&scratch, "ours", &acme, false);
    let theirs = SoftwareTpm::made_by(&scratch, "theirs", &rival, false);
    let refused = |tpm: &SoftwareTpm, authority: &Authority| match enrol(tpm, authority, EkKind::Rsa2048) {
        Err(EnrolError::Certificate(error)) => error,
        other => panic!("{other:?}"),
    };
    // Both authorities bear swtpm's usual name, so it is the signature that tells them apart.
    assert!(matches!(refused(&theirs, &acme), EkError::Signature | EkError::UnknownIssuer { .. }));
    assert!(matches!(refused(&ours, &rival), EkError::Signature | EkError::UnknownIssuer { .. }));
    // A certificate of the right authority with the key of the other TPM.
    let mut mixed = request(&mut ours.open(), None).expect("a request");
    mixed.ek_public = request(&mut theirs.open(), None).expect("a request").ek_public;
    let refused = PendingEnrolment::begin(mixed, &acme.certificates(), now());
    assert!(matches!(refused, Err(EnrolError::Certificate(EkError::OtherKey))), "{refused:?}");
    // Every byte of the certificate that is changed ends it.
    let asked = request(&mut ours.open(), None).expect("a request");
    for at in (0..asked.ek_certificate.len()).step_by(7) {
        let mut changed = asked.clone();
        changed.ek_certificate[at] ^= 0x10;
        assert!(PendingEnrolment::begin(changed, &acme.certificates(), now()).is_err(), "byte {at}");
    }
    // And so does time.
    let expired = PendingEnrolment::begin(asked, &acme.certificates(), now() - 86_400);
    assert!(matches!(expired, Err(EnrolError::Certificate(EkError::NotValidNow { .. }))));
}

#[test]
fn t04_a_key_that_could_sign_anything_is_not_enrolled() {
    let scratch = Scratch::new("t04");
    let authority = Authority::new(&scratch, "acme");
    let tpm = SoftwareTpm::made_by(&scratch, "tpm", &authority, false);
    let good = request(&mut tpm.open(), None).expect("a request");
    // restricted, fixedTPM, fixedParent, sensitiveDataOrigin, sign: each one missing; decrypt: there.
    for bit in [16, 1, 4, 5, 18, 17] {
        let mut asked = good.clone();
        asked.ak_public[4 + 3 - bit / 8] ^= 1 << (bit % 8);
        let refused = PendingEnrolment::begin(asked, &authority.certificates(), now());
        assert!(matches!(refused, Err(EnrolError::Key(VerifyError::Refused { .. }))), "bit {bit}: {refused:?}");
    }
}

#[test]
fn t05_a_quote_answers_one_question() {
    let scratch = Scratch::new("t05");
    let authority = Authority::new(&scratch, "acme");
    let tpm = SoftwareTpm::made_by(&scratch, "tpm", &authority, false);
    let statement = enrol(&tpm, &authority, EkKind::Rsa2048).expect("enrolled");
    let attester = attester(&scratch, &tpm, Some(statement));
    attester.measure(events()[0]).expect("measured");
    let (evidence, endorsements) =
        (attester.evidence(&binding(1).report_data()).expect("evidence"), attester.endorsements().expect("statement"));
    let appraise = |evidence: &Evidence, endorsements: &Endorsements, nonce| {
        Verifier::appraise(evidence, endorsements, &binding(nonce).report_data(), now(), &roots())
    };
    appraise(&evidence, &endorsements, 1).expect("the right question");
    assert!(matches!(appraise(&evidence, &endorsements, 2), Err(VerifyError::ReportData)));
    let none = appraise(&evidence, &Endorsements::default(), 1);
    assert!(matches!(none, Err(VerifyError::Statement(StatementError::Missing(_)))), "{none:?}");
    // T7: the register values and the log of a genuine quote cannot be changed.
    let genuine = quote_of(evidence);
    for (place, change) in [0, 4, 8].into_iter().map(|place| (place, [1u8; 32])) {
        let mut changed = genuine.clone();
        changed.pcrs[place] = Digest(change);
        let refused = appraise(&Evidence::Tpm(Box::new(changed)), &endorsements, 1);
        assert!(matches!(refused, Err(VerifyError::Refused { .. })), "{refused:?}");
    }
    for log in [vec![], vec![events()[1]], vec![events()[0], events()[1]]] {
        let changed = TpmQuote { events: log, ..genuine.clone() };
        let refused = appraise(&Evidence::Tpm(Box::new(changed)), &endorsements, 1);
        assert!(matches!(refused, Err(VerifyError::Refused { .. })), "{refused:?}");
    }
    // And no bit of what the TPM signed.
    for at in 0..genuine.attest.len() * 8 {
        let mut changed = genuine.clone();
        changed.attest[at / 8] ^= 1 << (at % 8);
        assert!(appraise(&Evidence::Tpm(Box::new(changed)), &endorsements, 1).is_err(), "bit {at}");
    }
}

#[test]
fn t07_an_event_log_that_does_not_lead_to_the_register_gives_no_evidence() {
    let scratch = Scratch::new("t07");
    let tpm = SoftwareTpm::bare(&scratch, "tpm");
    let attester = attester(&scratch, &tpm, None);
    attester.measure(events()[0]).expect("measured");
    let log = scratch.path("events");
    let text = std::fs::read_to_string(&log).expect("a log");
    // An event that was written down before a crash is made up for.
    let second = format!("policy {}\n", Digest::of(b"policy"));
    std::fs::write(&log, text.clone() + &second).expect("written");
    let evidence = quote_of(attester.evidence(&binding(1).report_data()).expect("evidence"));
    assert_eq!(evidence.events, events()[..2]);
    // A log that lost an event, and a register that somebody else extended.
    std::fs::write(&log, text).expect("written");
    assert!(matches!(attester.evidence(&binding(1).report_data()), Err(AttesterError::Failed { .. })));
    std::fs::write(&log, format!("runtime {}\n{second}", Digest::of(b"runtime"))).expect("written");
    attester.evidence(&binding(1).report_data()).expect("evidence");
    tpm.open().pcr_extend(15, Digest::of(b"unknown")).expect("extended");
    assert!(matches!(attester.evidence(&binding(1).report_data()), Err(AttesterError::Failed { .. })));
}

#[test]
fn t08_a_sealed_secret_does_not_open_after_the_register_is_extended() {
    let scratch = Scratch::new("t08");
    let mut tpm = SoftwareTpm::bare(&scratch, "tpm");
    let register = SealRegister::new(15).expect("a register");
    let sealed = {
        let mut open = tpm.open();
        open.pcr_extend(15, events()[0].extension()).expect("extended");
        let sealed = Sealed::seal(&mut open, register, b"the key of an epoch").expect("sealed");
        assert_eq!(sealed.unseal(&mut open).expect("opens"), b"the key of an epoch");
        open.pcr_extend(15, events()[1].extension()).expect("extended");
        let Err(SealedError::Tpm(error)) = sealed.unseal(&mut open) else { panic!("it opened") };
        assert_eq!(error.code(), Some(Code::POLICY_FAIL));
        sealed
    };
    // After a start of the machine and the same measurements it opens again, on this TPM only.
    tpm.restart();
    let read = Sealed::from_bytes(&sealed.to_bytes()).expect("a blob");
    assert!(read.unseal(&mut tpm.open()).is_err(), "nothing was measured yet");
    tpm.open().pcr_extend(15, events()[0].extension()).expect("extended");
    assert_eq!(read.unseal(&mut tpm.open()).expect("opens"), b"the key of an epoch");
    let other = SoftwareTpm::bare(&scratch, "other");
    other.open().pcr_extend(15, events()[0].extension()).expect("extended");
    let Err(SealedError::Tpm(error)) = read.unseal(&mut other.open()) else { panic!("it opened elsewhere") };
    assert_eq!(error.code(), Some(Code::INTEGRITY));
    // Every byte of the blob counts.
    let bytes = sealed.to_bytes();
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        let opened = Sealed::from_bytes(&changed).ok().and_then(|blob| blob.unseal(&mut tpm.open()).ok());
        assert_eq!(opened, None, "byte {at}");
        assert!(Sealed::from_bytes(&bytes[..at]).is_err());
    }
    assert!(matches!(Sealed::seal(&mut tpm.open(), register, &[0; 129]), Err(SealedError::TooLong(129))));
}

#[test]
fn t09_secrets_are_not_sealed_to_registers_that_can_be_reset() {
    for register in (0..8).chain(16..=255) {
        let Err(SealedError::Register(refused)) = SealRegister::new(register) else { panic!("{register}") };
        assert_eq!(refused, register);
        // Neither when a blob asks for it.
        assert!(matches!(Sealed::from_bytes(&[register, 0, 0, 0, 0]), Err(SealedError::Register(_))));
    }
}

#[test]
fn t10_the_trick_with_register_16_works_and_is_why_it_is_refused() {
    let scratch = Scratch::new("t10");
    let tpm = SoftwareTpm::bare(&scratch, "tpm");
    let mut tpm = tpm.open();
    // Extend, go on to something else, reset, extend again: the register is as it was.
    let mut values = Vec::new();
    for _ in 0..2 {
        tpm.pcr_reset(16).expect("register 16 can be reset");
        tpm.pcr_extend(16, events()[0].extension()).expect("extended");
        values.push(tpm.pcr_read(&[16]).expect("read"));
        tpm.pcr_extend(16, events()[1].extension()).expect("extended");
    }
    assert_eq!(values[0], values[1]);
    for register in 8..16 {
        let Err(error) = tpm.pcr_reset(register) else { panic!("register {register} was reset") };
        assert_eq!(error.code(), Some(Code::LOCALITY));
    }
}

/// Keys of the ledger and of a machine: a signature is a hash that the test's parties can all make.
#[derive(Debug)]
struct Party(u8);

impl Signer for Party {
    fn key(&self) -> Key {
        Key([self.0; 32])
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        Digest::of(&[&[self.0; 32], message].concat()).0.to_vec()
    }
}

impl Checks for Party {
    fn verify(&self, key: Key, message: &[u8], signature: &[u8]) -> bool {
        Digest::of(&[&key.0[..], message].concat()).0 == *signature
    }

    fn appraise(&self, _: &Candidate<'_>) -> Result<(), String> {
        Ok(())
    }
}

#[test]
fn t11_an_older_copy_of_a_tpm_opens_its_secret_and_the_ledger_refuses_the_state() {
    let scratch = Scratch::new("t11");
    let mut tpm = SoftwareTpm::bare(&scratch, "tpm");
    let register = SealRegister::new(15).expect("a register");
    let (ledger_key, owner, holder) = (Party(1), Party(2), Party(3));
    let mut ledger = MemoryLedger::new(Arc::new(Party(0)), Arc::new(Party(1)));
    let service = ServiceId([9; 16]);
    let states = [Digest::of(b"state 0"), Digest::of(b"state 1"), Digest::of(b"state 2")];
    let platform = PlatformId([5; 32]);
    let request = |operation: u8, epoch, version, action, signer: &Party| {
        let operation = OperationId([operation; 16]);
        Request::new(service, operation, epoch, version, action).signed(signer)
    };
    let recovery = Recovery { threshold: 1, keys: vec![owner.key()] };
    let create = Operation::Create {
        owner: owner.key(),
        state_hash: states[0],
        policy_hash: Digest::of(b"policy"),
        policy_version: 1,
        recovery,
    };
    let apply = |ledger: &mut MemoryLedger, request: Request| {
        ledger.apply(&request).expect("memory does not fail").unwrap_or_else(|refused| panic!("{refused}"))
    };
    let made = apply(&mut ledger, request(1, 0, 0, create, &owner));
    let claim = Operation::Claim { holder: holder.key(), platform, evidence: Digest::of(b"evidence") };
    let claim = request(2, made.record.epoch, made.record.version, claim, &holder).signed(&Party(5));
    let claimed = apply(&mut ledger, claim);
    let commit = |ledger: &mut MemoryLedger, number: u8, from: &Receipt| {
        let action =
            Operation::Commit { parent: states[usize::from(number) - 1], state_hash: states[usize::from(number)] };
        apply(ledger, request(10 + number, from.record.epoch, from.record.version, action, &holder))
    };

    // State 1 is sealed and committed; the host keeps a copy of the TPM and of the blob.
    let counter = Counter::open(&mut tpm.open(), 0).expect("a counter");
    counter.increment(&mut tpm.open()).expect("incremented");
    let old_blob = Sealed::seal(&mut tpm.open(), register, &states[1].0).expect("sealed");
    let first = commit(&mut ledger, 1, &claimed);
    let old = scratch.path("old");
    tpm.copy_state(&old);
    let before = counter.read(&mut tpm.open()).expect("read");
    // State 2 follows.
    counter.increment(&mut tpm.open()).expect("incremented");
    let new_blob = Sealed::seal(&mut tpm.open(), register, &states[2].0).expect("sealed");
    commit(&mut ledger, 2, &first);

    // The host puts everything back. The TPM notices nothing: the secret opens, the counter is as it was.
    tpm.restore_state(&old);
    let opened = old_blob.unseal(&mut tpm.open()).expect("opens");
    assert_eq!((opened.as_slice(), counter.read(&mut tpm.open()).expect("read")), (&states[1].0[..], before));
    let blob = |secret: Vec<u8>, version| Blob {
        version,
        state_hash: Digest(secret.try_into().expect("a digest")),
        complete: true,
    };
    let nonce = Nonce([7; 32]);
    let reading = ledger.read(service, nonce).expect("memory does not fail").expect("a record");
    let decide = |blob| boot::decide(&reading, nonce, ledger_key.key(), &Party(0), platform, &[blob]);
    assert!(
        matches!(decide(blob(opened, first.record.version)), Ok(Boot::Missing { .. })),
        "it is not the committed state"
    );
    let current = new_blob.unseal(&mut tpm.open()).expect("opens");
    assert!(matches!(decide(blob(current, first.record.version + 1)), Ok(Boot::Resume { blob: 0 })));
}

#[test]
fn t12_an_old_reading_of_a_counter_is_refused() {
    let scratch = Scratch::new("t12");
    let tpm = SoftwareTpm::bare(&scratch, "tpm");
    let mut tpm = tpm.open();
    let counter = Counter::open(&mut tpm, 0).expect("a counter");
    let other = Counter::open(&mut tpm, 1).expect("a counter");
    let name = counter.name().expect("a name");
    let before = counter.read(&mut tpm).expect("read");
    let old = counter.certify(&mut tpm, &[1; 32]).expect("certified");
    let ak_name = dunlin_attest::TpmSigned::key_name(&old.ak_public).expect("a key");
    assert_eq!(old.verify(&name, &ak_name, &[1; 32]).expect("fresh"), before);
    counter.increment(&mut tpm).expect("incremented");
    let new = counter.certify(&mut tpm, &[2; 32]).expect("certified");
    assert_eq!(new.verify(&name, &ak_name, &[2; 32]).expect("fresh"), before + 1);
    assert_eq!(Counter::open(&mut tpm, 0).expect("the same one").read(&mut tpm).expect("read"), before + 1);
    // The old reading does not answer the new question, nor does that of another counter or another key.
    assert!(old.verify(&name, &ak_name, &[2; 32]).is_err());
    assert!(new.verify(&other.name().expect("a name"), &ak_name, &[2; 32]).is_err());
    assert!(new.verify(&name, &Bytes::from([0; 34]), &[2; 32]).is_err());
    for at in 0..new.attest.len() * 8 {
        let mut changed = new.clone();
        changed.attest[at / 8] ^= 1 << (at % 8);
        assert!(changed.verify(&name, &ak_name, &[2; 32]).is_err(), "bit {at}");
    }
    // A quote is no reading.
    let (quoted, _) = (old.attest.clone(), ());
    assert_ne!(quoted, new.attest);
}

#[test]
fn t13_slots_that_others_left_full_are_cleared() {
    let scratch = Scratch::new("t13");
    let tpm = SoftwareTpm::bare(&scratch, "tpm");
    let register = SealRegister::new(15).expect("a register");
    for round in 0..3 {
        {
            // A client that takes every session it can get and goes away without a word.
            let mut careless = tpm.open();
            let taken = (0..8).map_while(|_| careless.start_policy().ok()).count();
            assert!(taken >= 3, "round {round}: {taken}");
        }
        let mut next = tpm.open();
        let sealed = Sealed::seal(&mut next, register, b"key").expect("sealed");
        assert_eq!(sealed.unseal(&mut next).expect("opens"), b"key");
    }
    // Nothing of ours stays behind: a hundred in a row.
    let mut tpm = tpm.open();
    for _ in 0..100 {
        let sealed = Sealed::seal(&mut tpm, register, b"key").expect("sealed");
        assert!(Sealed::from_bytes(&sealed.to_bytes()).expect("a blob").unseal(&mut tpm).is_ok());
    }
}

#[test]
fn t14_a_tpm_that_is_killed_in_the_middle_is_an_error_and_nothing_worse() {
    let scratch = Scratch::new("t14");
    let mut tpm = SoftwareTpm::bare(&scratch, "tpm");
    let register = SealRegister::new(15).expect("a register");
    let kept = Sealed::seal(&mut tpm.open(), register, b"kept").expect("sealed");
    let mut open = tpm.open();
    open.random(8).expect("it answers");
    tpm.kill();
    let Err(SealedError::Tpm(TpmError::Gone { .. })) = Sealed::seal(&mut open, register, b"lost") else {
        panic!("a dead TPM sealed")
    };
    assert!(matches!(Tpm::open(&tpm.device()), Err(TpmError::NoDevice { .. })));
    tpm.start();
    // While it seals: whatever the moment, there is an outcome, and what was sealed before opens.
    for pause in [0, 200, 500, 1000, 2000, 5000] {
        let device = tpm.device();
        let sealing = std::thread::spawn(move || {
            let mut open = Tpm::open(&device).map_err(SealedError::Tpm)?;
            loop {
                Sealed::seal(&mut open, register, b"lost")?;
            }
        });
        std::thread::sleep(std::time::Duration::from_micros(pause));
        tpm.kill();
        let outcome: Result<(), SealedError> = sealing.join().expect("no panic");
        assert!(
            matches!(outcome, Err(SealedError::Tpm(TpmError::Gone { .. } | TpmError::NoDevice { .. }))),
            "{outcome:?}"
        );
        tpm.start();
        assert_eq!(kept.unseal(&mut tpm.open()).expect("opens"), b"kept");
    }
}

#[test]
fn t15_a_reset_count_that_goes_back_is_refused() {
    let scratch = Scratch::new("t15");
    let authority = Authority::new(&scratch, "acme");
    let mut tpm = SoftwareTpm::made_by(&scratch, "tpm", &authority, false);
    let old = scratch.path("old");
    tpm.restart();
    tpm.copy_state(&old);
    for _ in 0..3 {
        tpm.restart();
    }
    let statement = enrol(&tpm, &authority, EkKind::Rsa2048).expect("enrolled");
    let verify = |attester: &TpmAttester| {
        let evidence = attester.evidence(&binding(1).report_data()).expect("evidence");
        let endorsements = attester.endorsements().expect("the statement");
        Verifier::appraise(&evidence, &endorsements, &binding(1).report_data(), now(), &roots())
    };
    let attester = attester(&scratch, &tpm, Some(statement));
    verify(&attester).expect("as enrolled");
    // The host puts back the state from before the enrolment. Its keys are the same, its reset count is lower.
    tpm.restore_state(&old);
    let refused = verify(&attester);
    let Err(VerifyError::Refused { what, .. }) = &refused else { panic!("{refused:?}") };
    assert!(what.contains("reset count"), "{what}");
}

#[test]
fn t16_the_path_that_is_given_is_the_one_that_is_used() {
    let scratch = Scratch::new("t16");
    // The port to which other libraries fall back without a word.
    let fallback = TcpListener::bind("127.0.0.1:2321");
    if let Ok(listener) = &fallback {
        listener.set_nonblocking(true).expect("set");
    }
    let nowhere = format!("swtpm:path={}", scratch.path("nowhere.sock").display()).parse().expect("a device");
    let Err(TpmError::NoDevice { device, .. }) = Tpm::open(&nowhere) else { panic!("something answered") };
    assert!(device.contains("nowhere.sock"));
    // Two TPMs at two paths are two TPMs.
    let (one, two) = (SoftwareTpm::bare(&scratch, "one"), SoftwareTpm::bare(&scratch, "two"));
    one.open().pcr_extend(15, Digest::of(b"one")).expect("extended");
    assert_ne!(one.open().pcr_read(&[15]).expect("read"), two.open().pcr_read(&[15]).expect("read"));
    if let Ok(listener) = &fallback {
        let nobody = listener.accept().expect_err("somebody fell back to TCP");
        assert_eq!(nobody.kind(), std::io::ErrorKind::WouldBlock);
    }
}

/// A TPM that is busy says so, and is asked again; one that speaks nonsense is an error.
#[test]
fn busy_and_malformed_tpms() {
    let scratch = Scratch::new("busy");
    let path = scratch.path("fake.sock");
    let serve = |responses: Vec<Vec<u8>>, path: PathBuf| {
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).expect("bound");
        std::thread::spawn(move || {
            use std::io::Write as _;
            let (mut stream, _) = listener.accept().expect("a client");
            for response in responses {
                let mut command = [0; 12];
                stream.read_exact(&mut command).expect("a command");
                stream.write_all(&response).expect("written");
            }
        })
    };
    let header = |code: u32, body: &[u8]| {
        [&[0x80, 1][..], &(10 + body.len() as u32).to_be_bytes(), &code.to_be_bytes(), body].concat()
    };
    let device = format!("unix:{}", path.display()).parse().expect("a device");
    let busy = vec![header(0x922, &[]), header(0x90a, &[]), header(0, &[0, 2, 7, 7])];
    let server = serve(busy, path.clone());
    assert_eq!(Tpm::open(&device).expect("open").random(2).expect("after two repetitions"), [7, 7]);
    server.join().expect("served");
    for nonsense in [
        header(0, &[0, 9, 7]),
        header(0, &[]),
        vec![0x80, 1, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0],
        vec![0x80, 1, 0, 0, 0, 3, 0, 0, 0, 0],
        vec![0, 0, 0, 0, 0, 10, 0, 0, 0, 0],
    ] {
        let server = serve(vec![nonsense], path.clone());
        let refused = Tpm::open(&device).expect("open").random(2);
        assert!(matches!(refused, Err(TpmError::Malformed { .. })), "{refused:?}");
        server.join().expect("served");
    }
    let server = serve(vec![header(0x922, &[]); 9], path);
    let refused = Tpm::open(&device).expect("open").random(2);
    assert!(matches!(refused, Err(TpmError::Refused { code: Code::RETRY, .. })), "{refused:?}");
    server.join().expect("served");
}
