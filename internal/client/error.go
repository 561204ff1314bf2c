package client

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
)

// Error is an error that the service answered, of a request or of a long-running operation. Its shape is ARM's error
// envelope.
type Error struct {
	// Status is the HTTP status; 200 when an operation failed.
	Status int `json:"-"`
	// Code is for programs, Message for people; Target names the field or resource, if any.
	Code    string  `json:"code"`
	Message string  `json:"message"`
	Target  string  `json:"target"`
	Details []Error `json:"details"`
	// AdditionalInfo has, among others, the service's recommendations.
	AdditionalInfo []Info          `json:"additionalInfo"`
	InnerError     json.RawMessage `json:"innererror"`
}

// Info is one entry of an error's additionalInfo.
type Info struct {
	Type string          `json:"type"`
	Info json.RawMessage `json:"info"`
}

// NotFound says whether err is the service's word that something does not exist.
func NotFound(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Status == http.StatusNotFound
}

// Error is the first line of Text.
func (e *Error) Error() string {
	return fmt.Sprintf("(%s) %s", e.Code, e.Message)
}

// Text is the whole error, for people, on several lines.
func (e *Error) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "(%s) %s\nCode: %s\nMessage: %s", e.Code, e.Message, e.Code, e.Message)
	if e.Target != "" {
		fmt.Fprintf(&b, "\nTarget: %s", e.Target)
	}
	if len(e.Details) > 0 {
		b.WriteString("\nException Details:")
		for i := range e.Details {
			b.WriteString("\t" + strings.ReplaceAll(e.Details[i].Text(), "\n", "\n\t"))
		}
	}
	if len(e.InnerError) > 0 && !bytes.Equal(e.InnerError, []byte("null")) {
		b.WriteString("\nInner error: " + indented(e.InnerError))
	}
	if len(e.AdditionalInfo) > 0 {
		b.WriteString("\nAdditional Information:")
		for _, i := range e.AdditionalInfo {
			fmt.Fprintf(&b, "Type: %s\nInfo: %s", i.Type, indented(i.Info))
		}
	}
	return b.String()
}

func indented(raw json.RawMessage) string {
	var b bytes.Buffer
	if err := json.Indent(&b, raw, "", "    "); err != nil {
		return string(raw)
	}
	return b.String()
}

// explain turns azcore's errors into ours, and says what to do when the service cannot be reached.
func (c *Client) explain(err error) error {
	var re *azcore.ResponseError
	if !errors.As(err, &re) {
		return fmt.Errorf("call %s: %w", c.endpoint, err)
	}
	e := &Error{Status: re.StatusCode, Code: re.ErrorCode}
	if re.RawResponse != nil {
		readError(re.RawResponse, e)
	}
	if e.Code == "" {
		e.Code = strings.ReplaceAll(http.StatusText(re.StatusCode), " ", "")
	}
	if e.Message == "" {
		e.Message = fmt.Sprintf("the service answered %d %s", re.StatusCode, http.StatusText(re.StatusCode))
	}
	return e
}

func readError(resp *http.Response, e *Error) {
	body, err := runtime.Payload(resp)
	if err != nil {
		return
	}
	var envelope struct {
		Error *Error `json:"error"`
	}
	if json.Unmarshal(body, &envelope) == nil && envelope.Error != nil {
		status, code := e.Status, e.Code
		*e = *envelope.Error
		e.Status = status
		if e.Code == "" {
			e.Code = code
		}
		return
	}
	e.Message = strings.TrimSpace(string(body))
}
