module github.com/fsmeta/fsmeta

go 1.26.8
