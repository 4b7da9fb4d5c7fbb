#!/bin/sh
# Makes the quotes in this directory with a software TPM. Needs swtpm and tpm2-tools.
# Usage: make.sh DIRECTORY   (nothing in it is secret, the TPM is thrown away)
set -eu
out=$1
state=$(mktemp -d)
swtpm socket --tpm2 --tpmstate dir="$state" --server type=unixio,path="$state/sock" \
    --ctrl type=unixio,path="$state/sock.ctrl" --flags not-need-init,startup-clear &
tpm=$!
trap 'kill $tpm; rm -rf "$state"' EXIT
export TPM2TOOLS_TCTI="swtpm:path=$state/sock"
while [ ! -S "$state/sock" ]; do sleep 0.1; done
cd "$state"

# The extensions of register 15: SHA-256 of the deterministic CBOR of [kind, digest].
extend() {
    tpm2_pcrextend "15:sha256=$(printf "$1" "$2" | xxd -r -p | sha256sum | cut -d' ' -f1)"
}
runtime=$(printf runtime | sha256sum | cut -d' ' -f1)
policy=$(printf policy | sha256sum | cut -d' ' -f1)
extend '826772756e74696d655820%s' "$runtime"
extend '8266706f6c6963795820%s' "$policy"

qualifying=$(printf '5a%.0s' $(seq 32))
for kind in ecc rsa; do
    case $kind in ecc) scheme=ecdsa ;; rsa) scheme=rsassa ;; esac
    tpm2_createek -c ek.ctx -G $kind -u ek.pub
    tpm2_createak -C ek.ctx -c ak.ctx -G $kind -g sha256 -s $scheme -u "$out/$kind.ak.pub" -n "$out/$kind.ak.name"
    tpm2_flushcontext -t
    tpm2_quote -c ak.ctx -l sha256:0,1,2,3,4,5,6,7,15 -q "$qualifying" -g sha256 \
        -m "$out/$kind.attest" -s "$out/$kind.signature" -o values -F values
    cp values "$out/$kind.pcrs"
    tpm2_flushcontext -t; tpm2_flushcontext -l; tpm2_flushcontext -s
done
