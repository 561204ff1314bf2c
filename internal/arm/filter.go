package arm

import "strings"

// Filter is a $filter: comparisons that must all hold.
type Filter []Comparison

// Comparison is one term of a filter.
type Comparison struct {
	// Name is what is compared, in lower case.
	Name string
	// Operator is one of the constants.
	Operator string
	// Value is without its quotes.
	Value string
}

// The operators of comparisons. A call such as atScope() has an operator too, so that every term has one.
const (
	FilterEqual          = "eq"
	FilterNotEqual       = "ne"
	FilterGreater        = "gt"
	FilterGreaterOrEqual = "ge"
	FilterLess           = "lt"
	FilterLessOrEqual    = "le"
	FilterCall           = "()"
)

// Equal is what a name must be equal to, or is called with; given is false when the filter does not say.
func (f Filter) Equal(name string) (value string, given bool) {
	for _, c := range f {
		if strings.EqualFold(c.Name, name) && (c.Operator == FilterEqual || c.Operator == FilterCall) {
			return c.Value, true
		}
	}
	return "", false
}

// Equalities is the 400 unless every term says that something is equal to a value, or calls something: for lists that can be filtered by nothing else.
func (f Filter) Equalities() error {
	for _, c := range f {
		if c.Operator != FilterEqual && c.Operator != FilterCall {
			return BadFilter("only eq compares '%s' here, not %s", c.Name, c.Operator)
		}
	}
	return nil
}

// BadFilter is the 400 for a filter that the list does not understand.
func BadFilter(format string, args ...any) *Error {
	return Invalid("$filter", "The filter is wrong: "+format+".", args...).
		WithAction("Write it as name eq 'value', joined by and, or leave it out.")
}
