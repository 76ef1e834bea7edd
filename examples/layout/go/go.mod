module flowstream/examples/layout

go 1.23.0

require flowstream/schemas/go v0.0.0

replace flowstream/schemas/go => ../../../schemas/go
