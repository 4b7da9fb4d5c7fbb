# The same on files.
mkdir /data/sub
seq 1 300 > /data/sub/numbers
wc < /data/sub/numbers
seq 301 310 >> /data/sub/numbers
cat /data/sub/numbers | tail 2
size /data/sub/numbers
cp /data/sub/numbers /data/copy
mv /data/copy /data/sub/other
ln /data/sub/other /data/link
truncate /data/link 100
cat /data/sub/other | sum
ls /data
ls /data/sub
rm /data/sub/numbers /data/sub/other
rmdir /data/sub
ls /data
cat /data/link | head 2
