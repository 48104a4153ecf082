"""Several hosts on this machine: namespaces with a network between them, and a database that all of them reach."""
