module flowstream/schemas/go

go 1.23.0
