# What a small shell can do, on files if there is a directory /data.
name=dunlin
echo hello $name "and |"
seq 1 12 | grep 1 | rev | sort | uniq | wc
seq 1 2000 | sum
elapsed
test /nowhere
echo $?
sleep 5
read line
this line is read by the line above
echo $line | rev | cat
cat nothing
echo status $?
seq 1 40 | head 30 | tail 3
false
