# pipelines.sh COUNT: so many pipelines of three processes.
i=0
while [ $i -lt "$1" ]; do
    i=$((i + 1))
    echo $i | cat | cat > /dev/null
done
